"""The commands of docs/evaluation.md run as they stand, on a run of four images beside an annotation file."""

import json
import re
import shlex
from pathlib import Path

import pytest

from sam_pipeline.cli.commands import main
from sam_pipeline.pipeline import annotate as annotate_module
from sam_pipeline.storage.maintenance.status import Outcome
from tests.evaluation.compared import HEIGHT, WIDTH, annotation, coco_file, rectangle, saved_rows, stored
from tests.storage.runs import row

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "evaluation.md").read_text()
COMMANDS = [
    shlex.split(line)
    for block in re.findall(r"```sh\n(.*?)```", TEXT, flags=re.DOTALL)
    for line in block.splitlines()
    if line.startswith("sam-pipeline ")
]
SHAPE = rectangle(10, 10, 20, 20)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    names = [f"{name}.png" for name in ("astronaut", "chelsea", "coffee", "rocket")]
    rows = [
        row(number, 1, masks=[stored(SHAPE, 0.95)], height=HEIGHT, width=WIDTH, uri=f"/photos/{name}")
        for number, name in enumerate(names)
    ]
    for output in ("run", "proposals"):
        saved_rows(tmp_path / output, rows)
    truth = coco_file([[annotation(SHAPE)] for _ in names])
    for image, name in zip(truth["images"], names, strict=True):
        image["file_name"] = name
    (tmp_path / "instances.json").write_text(json.dumps(truth))
    return tmp_path


def test_there_are_commands():
    assert sorted({command[1] for command in COMMANDS}) == ["annotate", "evaluate"]
    assert len(COMMANDS) >= 6


@pytest.mark.parametrize("command", [each for each in COMMANDS if each[1] == "evaluate"], ids=" ".join)
def test_it_runs(folder, capsys, command):
    with pytest.raises(SystemExit) as caught:
        main(command[1:])
    out, err = capsys.readouterr()
    assert caught.value.code == 0, err
    assert "AP                  1.0000" in out
    written = [folder / command[place + 1] for place, word in enumerate(command) if word in ("--csv", "--json")]
    assert all(file.stat().st_size for file in written)


@pytest.mark.parametrize("command", [each for each in COMMANDS if each[1] == "annotate"], ids=" ".join)
def test_the_protocol_is_a_settings_file(folder, monkeypatch, command):
    called = []

    def annotate(config, make_display, start_id):
        called.append(config)
        return annotate_module.Summary(Outcome(config.output, {"ok": 9}, 33), 4, 8.0)

    monkeypatch.setattr(annotate_module, "annotate", annotate)
    with pytest.raises(SystemExit) as caught:
        main(command[1:])
    assert caught.value.code == 0
    masks, model = called[0].masks, called[0].model
    assert (model.model_type, masks.points_per_side, masks.box_nms_thresh) == ("vit_h", 64, 0.9)
    assert masks.pred_iou_thresh == masks.stability_score_thresh == masks.crop_n_layers == 0
