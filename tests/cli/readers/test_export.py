"""The command export: what it prints, and how it ends."""

import json
import re

import pytest
from pycocotools.coco import COCO

from tests.exports.masks import all_shapes, prompted, row, shapes
from tests.storage.runs import failed_row, finished


@pytest.fixture
def output(tmp_path):
    finished(str(tmp_path / "run"), [row(0, all_shapes()), row(1, []), row(2, all_shapes()[:2]), failed_row(3)], 6)
    return tmp_path / "run"


def test_an_export_prints_what_it_wrote_and_left_out(cli, output, tmp_path):
    code, out, err = cli("export", output, tmp_path / "coco", "--format", "coco", "--max-masks", 3)
    assert code == 0
    *lines, timing = out.splitlines()
    assert re.fullmatch(r"time         0:00:\d\d \(\d+ images/s\)", timing)
    assert lines == [
        f"destination  {tmp_path}/coco",
        "format       coco",
        "images       3 (left out: 1 decode_error)",
        "masks        5 (left out: 9 max_masks)",
        "names below  file:///in/",
    ]
    assert err.splitlines() == [
        "the run is not finished: 2 of its 6 images have no result yet, and are not in the export"
    ]
    assert len(COCO(tmp_path / "coco" / "annotations.json").anns) == 5


def test_programs_get_numbers(cli, output, tmp_path, monkeypatch):
    monkeypatch.setattr("sam_pipeline.process.events.are_used", lambda: True)
    _, out, _ = cli("export", output, tmp_path / "coco", "--format", "coco", "--max-masks", 3)
    figures = json.loads(out)
    assert figures.pop("elapsed_s") > 0
    assert figures == {
        "dest": f"{tmp_path}/coco",
        "format": "coco",
        "root": "file:///in/",
        "num_images": 3,
        "images_left_out": {"decode_error": 1},
        "num_masks": 5,
        "masks_left_out": {"max_masks": 9},
    }


def test_an_export_without_masks_or_images_says_so(cli, tmp_path):
    finished(str(tmp_path / "failed"), [failed_row(0), failed_row(1)])
    finished(str(tmp_path / "empty"), [row(0, []), row(1, [])])
    for name, what in (("failed", "images"), ("empty", "masks")):
        code, _, err = cli("export", tmp_path / name, tmp_path / f"{name}-coco", "--format", "coco")
        assert (code, err) == (0, f"there are no {what} in the export\n")
        assert json.loads((tmp_path / f"{name}-coco" / "annotations.json").read_text())["annotations"] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--format", "coco"), "is not empty: it holds 'notes.txt', which no export wrote"),
        (("--format", "voc"), "'coco', 'coco-results', 'sa1b', 'amg'"),
        ((), "--format"),
        (("--format", "coco", "--split", "1.5"), "split must be between 0 and 1, got 1.5"),
        (("--format", "coco", "--pred-iou-thresh", "0.5"), "pred_iou_thresh = 0.5 is looser than the run's 0.88"),
        (("--format", "coco", "--categories", "missing.txt"), "missing.txt"),
    ],
)
def test_what_cannot_be_exported_ends_with_2_and_says_why(cli, tmp_path, arguments, message):
    from tests.storage.runs import plan, shard, take_over

    run = str(tmp_path / "run")
    plan(run, 1)
    take_over(run, {"pred_iou_thresh": 0.88}).commit([shard(run, [row(0, all_shapes())])])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    code, out, err = cli("export", run, tmp_path / "full", *arguments)
    assert (code, out) == (2, "")
    assert message in " ".join(err.split())


def test_a_category_without_a_name_ends_with_2(cli, tmp_path):
    finished(str(tmp_path / "run"), [row(0, [prompted(shapes()["disc"], 5)]), row(1, [])])
    code, _, err = cli("export", tmp_path / "run", tmp_path / "coco", "--format", "coco")
    assert (code, err) == (
        2,
        "error: category 5 has no name; give --categories a COCO file, a data.yaml, or a text file\n",
    )


def test_what_is_no_run_ends_with_2(cli, tmp_path):
    assert cli("export", tmp_path / "nothing", tmp_path / "coco", "--format", "coco")[0] == 2
