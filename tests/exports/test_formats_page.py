"""The examples of docs/formats.md run as they stand, one after another, on a run of two photographs."""

import re
import shlex
from pathlib import Path

import pytest

from sam_pipeline.cli.commands import main
from sam_pipeline.exports.formats import FORMATS
from tests.exports.masks import all_shapes
from tests.exports.pictures import picture, run_of

TEXT = (Path(__file__).parents[2] / "docs" / "formats.md").read_text()
COMMANDS = [
    line for block in re.findall(r"```bash\n(.*?)```", TEXT, flags=re.DOTALL) for line in block.strip().splitlines()
]
READERS = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
OTHERS = [
    reader for reader in READERS if re.search(r"^import (supervision|webdataset|datasets)$", reader, re.MULTILINE)
]


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """A folder in which all commands of the page have run."""
    folder = tmp_path_factory.mktemp("page")
    run_of(folder, {"coffee.png": picture(0, "PNG"), "rocket.jpg": picture(1)}, masks=[all_shapes()[:5], all_shapes()])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for command in COMMANDS:
            with pytest.raises(SystemExit) as caught:
                main(shlex.split(command)[1:])
            assert caught.value.code == 0, command
    return folder


@pytest.mark.parametrize("reader", [reader for reader in READERS if reader not in OTHERS])
def test_readers_read_what_the_commands_write(exports, monkeypatch, reader):
    monkeypatch.chdir(exports)
    names = {}
    exec(reader, names)
    for name in ("mask", "first", "masks"):
        if name in names:
            assert sum(mask.sum() for mask in names[name]) > 0


@pytest.mark.soak
@pytest.mark.parametrize("reader", OTHERS)
def test_other_readers_read_what_the_commands_write(exports, readers, monkeypatch, reader):
    monkeypatch.chdir(exports)
    monkeypatch.setenv("HF_HOME", str(exports / "cache"))
    assert readers(reader)


def test_every_format_has_a_line_and_a_command():
    listed = re.findall(r"^\| `([a-z0-9-]+)` \|", TEXT, flags=re.MULTILINE)
    assert listed == list(FORMATS)
    assert {command.split("--format ")[1].split()[0] for command in COMMANDS} == set(FORMATS)
