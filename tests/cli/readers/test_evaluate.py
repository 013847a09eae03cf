"""The command evaluate: what it prints and writes, and what it says of what it cannot use."""

import csv
import json
import sys

import pytest

from sam_pipeline.errors import OutputError
from sam_pipeline.report.writing import NewFile
from tests.evaluation.compared import HEIGHT, WIDTH, annotation, coco_file, rectangle, saved_rows, stored
from tests.storage.runs import failed_row, plan, row, take_over

LEFT, RIGHT = rectangle(10, 10, 20, 20), rectangle(90, 10, 20, 20)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A run of three images, of which one failed, and an annotation file of two of them and another."""
    monkeypatch.chdir(tmp_path)
    found = [row(number, 1, masks=[stored(LEFT)], height=HEIGHT, width=WIDTH) for number in (0, 1)]
    saved_rows(tmp_path / "run", [*found, failed_row(2)])
    truth = coco_file([[annotation(LEFT), annotation(RIGHT, iscrowd=1)], [], [annotation(RIGHT)], [annotation(LEFT)]])
    truth["images"][1]["file_name"] = "else.jpg"
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    return tmp_path


def test_what_is_printed_and_written(cli, folder):
    code, out, err = cli("evaluate", "run", "--ground-truth", "truth.json", "--csv", "a.csv", "--json", "a.json")
    assert code == 0, err
    for line in (
        "images                2 (1 ok, 1 decode_error)",
        "without masks         1 images that failed count as images without masks",
        "only in ground truth  2 images",
        "only in the run       1 images",
        "objects               2, and 1 crowds",
        "masks                 1, ranked by predicted_iou",
        "categories            not compared",
        "                      mask       box  boundary",
        "AR@1000             0.5000    0.5000    0.5000",
        "AP_large                 -         -         -",
        "0.0000        0/1      0  file:///in/0002.jpg",
    ):
        assert line in out.splitlines(), out
    with open("a.csv") as file:
        assert [each["image_id"] for each in csv.DictReader(file)] == ["0", "2"]
    assert json.loads((folder / "a.json").read_text())["figures"]["mask"]["AR@1000"] == 0.5


def test_figures_are_printed_and_one_file_written_where_the_other_cannot_be(cli, folder, monkeypatch):
    written = NewFile.write

    def write(file, content):
        if file.uri.endswith(".csv"):
            raise OutputError("cannot write a.csv: no space left")
        written(file, content)

    monkeypatch.setattr(NewFile, "write", write)
    code, out, err = cli("evaluate", "run", "--ground-truth", "truth.json", "--csv", "a.csv", "--json", "a.json")
    assert (code, err) == (2, "error: cannot write a.csv: no space left\n")
    assert "AR@1000             0.5000    0.5000    0.5000" in out.splitlines()
    assert json.loads((folder / "a.json").read_text())["figures"]["mask"]["AR@1000"] == 0.5


def test_a_selection_and_kinds(cli, folder):
    given = ("--iou", "box", "--min-area", "401", "--rank-by", "mean")
    code, out, err = cli("evaluate", "run", "--ground-truth", "truth.json", *given)
    assert code == 0, err
    assert "masks                 0, ranked by mean" in out
    assert "AP                  0.0000" in out.splitlines()
    assert "boundary" not in out


def test_hostile_names_are_one_line(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    uri = "file:///in/\x1b[31m\n=evil.jpg"
    saved_rows(tmp_path / "run", [row(0, 1, masks=[stored(LEFT)], height=HEIGHT, width=WIDTH, uri=uri)])
    truth = coco_file([[annotation(LEFT)]])
    truth["images"][0]["file_name"] = "\x1b[31m\n=evil.jpg"
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    code, out, _ = cli("evaluate", "run", "--ground-truth", "truth.json", "--csv", "a.csv")
    assert code == 0
    assert "\x1b" not in out + (tmp_path / "a.csv").read_text()
    assert len((tmp_path / "a.csv").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("[]", "holds a list"),
        ("{}", "no list `images`"),
        (json.dumps(coco_file([[]])), "no annotations in"),
        (json.dumps(coco_file([[], [], [], [annotation(LEFT)]])), "no objects in"),
    ],
)
def test_bad_ground_truth_is_one_line(cli, folder, content, message):
    (folder / "bad.json").write_text(content)
    code, out, err = cli("evaluate", "run", "--ground-truth", "bad.json", "--json", "a.json")
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1
    assert not (folder / "a.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--ground-truth", "none.json"], "input not found"),
        (["none", "--ground-truth", "truth.json"], "no plan in"),
        (["run", "--ground-truth", "truth.json", "--iou", "masks"], "iou must be some of mask, box, boundary"),
        (
            ["run", "--ground-truth", "truth.json", "--csv", "truth.json"],
            "truth.json exists already: give another name, or delete it",
        ),
        (["run", "--ground-truth", "truth.json", "--json", "truth.json/a.json"], "Not a directory"),
        (["run", "--ground-truth", "truth.json", "--csv", "a", "--json", "./a"], "csv and json are the same file, a"),
        (["run", "--ground-truth", "truth.json", "--include", "x.jpg"], "no results of the images that are wanted"),
        (["run", "--ground-truth", "truth.json", "--rank-by", "score"], "some have none"),
    ],
)
def test_bad_usage_is_one_line(cli, folder, arguments, message):
    code, out, err = cli("evaluate", *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(("flag", "place"), [("--csv", "run/masks/a.csv"), ("--json", "run/prompts/a.json")])
def test_nothing_is_written_where_the_run_keeps_its_tables(cli, folder, flag, place):
    before = sorted(folder.rglob("*"))
    code, out, err = cli("evaluate", "run", "--ground-truth", "truth.json", flag, place)
    assert (code, out) == (2, "")
    assert err == f"error: {folder / place} lies in a table of {folder / 'run'}; give a place of its own\n"
    assert sorted(folder.rglob("*")) == before


def test_a_run_without_results(cli, folder):
    plan(str(folder / "planned"), 3)
    code, _, err = cli("evaluate", "planned", "--ground-truth", "truth.json")
    assert (code, err) == (2, f"error: no results in {folder / 'planned'}\n")
    take_over(str(folder / "planned"))
    code, _, err = cli("evaluate", "planned", "--ground-truth", "truth.json")
    assert code == 2
    assert "no results of the images that are wanted" in err


def test_a_missing_library_is_named_with_its_extra(cli, folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    code, _, err = cli("evaluate", "run", "--ground-truth", "truth.json")
    assert code == 2
    assert err.startswith("error: evaluation needs faster-coco-eval")
    assert err.endswith("pip install 'sam-pipeline[eval]'\n")


def test_help_teaches(cli):
    code, out, _ = cli("evaluate", "--help")
    assert code == 0
    for words in ("--ground-truth", "--rank-by", "--pred-iou-thresh", "pip install 'sam-pipeline[eval]'", "Examples:"):
        assert words in out
