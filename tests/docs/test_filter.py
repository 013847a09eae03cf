"""The commands and the snippet of docs/filter.md."""

import re
import shlex
from pathlib import Path

import pytest

from sam_pipeline import open_run
from sam_pipeline.cli.commands import main
from sam_pipeline.config.fingerprint import filters_of
from tests.storage.runs import FINGERPRINT, plan, row, shard, take_over

TEXT = (Path(__file__).parents[2] / "docs" / "filter.md").read_text()


def commands(name):
    lines = [line.strip() for line in TEXT.splitlines() if line.startswith(f"    sam-pipeline {name} ")]
    return [shlex.split(line)[1:] for line in lines]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A run in which the command to annotate, as it stands there, would end."""
    (annotate,) = commands("annotate")
    values = dict(zip(annotate[1::2], annotate[2::2], strict=True))
    loose = {
        name.removeprefix("--").replace("-", "_"): float(value) for name, value in values.items() if "thresh" in name
    }
    monkeypatch.chdir(tmp_path)
    for output in ("run", "demo/run"):
        plan(str(tmp_path / output), 2)
        table = take_over(str(tmp_path / output), FINGERPRINT | {"mode": "grid"} | loose)
        table.commit([shard(str(tmp_path / output), [row(0), row(1)])])
    return tmp_path


def test_the_commands_run(folder):
    for command in commands("filter"):
        with pytest.raises(SystemExit) as end:
            main(command)
        assert end.value.code == 0
    assert filters_of(open_run("best").settings)[0]["selection"] == {
        "pred_iou_thresh": 0.92,
        "box_nms_thresh": 0.7,
        "min_area": 100,
    }


def test_the_snippet_runs(folder, capsys):
    (snippet,) = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
    exec(snippet, {})
    assert "0001.jpg" in capsys.readouterr().out
