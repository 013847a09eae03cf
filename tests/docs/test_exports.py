"""The commands and the snippet of docs/exports.md."""

import re
import shlex
from pathlib import Path

import pytest
from pycocotools.coco import COCO

from sam_pipeline.cli.commands import main
from sam_pipeline.storage.inputs.source_object import SourceObject, source_table
from sam_pipeline.storage.tables.plan import write_plan
from tests.exports.masks import all_shapes, row
from tests.storage.image_files import noise, saved
from tests.storage.runs import shard, take_over

TEXT = (Path(__file__).parents[2] / "docs" / "exports.md").read_text()
COMMANDS = [
    shlex.split(line) for block in re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL) for line in block.splitlines()
]


@pytest.fixture(autouse=True)
def _folder_with_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    images = []
    for number in range(3):
        path = tmp_path / "photos" / f"{number}.png"
        path.write_bytes(saved(noise(97, 131), "PNG"))
        images.append(SourceObject(f"file://{path}", path.stat().st_size, None))
    output = str(tmp_path / "run")
    write_plan(output, str(tmp_path / "photos"), source_table(images), {})
    rows = [row(number, all_shapes()[number:], uri=image.uri) for number, image in enumerate(images)]
    take_over(output, {"max_pixels": 10**8}).commit([shard(output, rows)])


def test_the_commands_write_what_the_page_says(tmp_path, capsys):
    assert len(COMMANDS) == 7
    for command in COMMANDS:
        with pytest.raises(SystemExit) as end:
            main(command[1:])
        assert end.value.code == 0, capsys.readouterr().err
    names = {
        "coco": {"annotations.json"},
        "best": {"annotations.json"},
        "divided": {"train.json", "val.json"},
        "shards": {"annotations-000000.json"},
        "results": {"results.json"},
        "sa1b": {f"{number}.{suffix}" for number in range(3) for suffix in ("json", "png")},
        "pngs": {"0", "1", "2"},
    }
    for folder, expected in names.items():
        assert {path.name for path in (tmp_path / folder).iterdir()} - {".sam-pipeline-export"} == expected
    assert [image["file_name"] for image in COCO("coco/annotations.json").dataset["images"]] == [
        "0.png",
        "1.png",
        "2.png",
    ]


def test_the_snippet_exports(capsys):
    (snippet,) = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
    exec(snippet, {})
    assert capsys.readouterr().out == "3 30 {'min_area': 3}\n"
    assert len(COCO("coco-of-python/annotations.json").anns) == 30
