"""The commands stats, report and show: what they print, and what they refuse in one line."""

import json
import os

import pytest
from PIL import Image

from tests.report.picture_runs import write_picture_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    names = [f"{number}.png" for number in range(5)]
    return write_picture_run(folder, names, with_prompts=True, num_failed=1, num_left=1)


def test_stats_prints_the_figures(cli, run):
    code, out, err = cli("stats", run)
    assert (code, err) == (0, "")
    lines = [line.split() for line in out.splitlines()]
    assert ["images", "4", "(3", "ok,", "1", "decode_error)"] in lines
    assert ["left", "to", "do", "1", "of", "5"] in lines
    assert ["masks", "12"] in lines
    assert any(line[:3] == ["masks", "per", "image"] for line in lines)
    assert any(line[:1] == ["pred_iou_thresh"] for line in lines)
    assert ["0", "0", "6", "3"] in lines  # category 0 has no name but its number
    assert "cannot decode …: it has … bytes" in out


def test_stats_is_json_on_demand(cli, run):
    code, out, err = cli("stats", run, "--json", "--max-masks", 1)
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert (found["num_masks"], found["selection"]) == (3, {"max_masks": 1})


def test_report_writes_a_page(cli, run, tmp_path):
    place = tmp_path / "new" / "page.html"
    code, out, err = cli("report", run, place, "--gallery", 2)
    assert (code, err) == (0, "")
    assert str(place) in out
    assert place.read_text().count('<figure class="card"') == 2


def test_show_draws_one_image(cli, run, tmp_path):
    code, out, err = cli("show", run, "--image", "1.png", "--to", tmp_path / "1.jpg")
    assert (code, err) == (0, "")
    assert out.splitlines()[0].split() == ["image", "1"]
    with Image.open(tmp_path / "1.jpg") as picture:
        assert picture.size == (120, 90)


def test_show_says_that_an_image_is_missing(cli, tmp_path):
    output = write_picture_run(tmp_path, ["0.png"])
    (tmp_path / "images" / "0.png").unlink()
    code, _, err = cli("show", output, "--image", 0, "--to", tmp_path / "0.png")
    assert code == 0
    assert "drawn on grey: [Errno 2] No such file or directory" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["stats", "RUN", "--pred-iou-thresh", "2"], "pred_iou_thresh must be in [0, 1], got 2"),
        (["stats", "NONE"], "no plan in"),
        (["stats", "RUN", "--categories", "NONE"], "input not found"),
        (["report", "RUN", "FOLDER"], "is a folder: name a file in it"),
        (["report", "RUN", "FILE"], "exists already: give another name, or --overwrite"),
        (["report", "RUN", "FILE/page.html"], "cannot write"),
        (["report", "RUN", "NEW", "--gallery", "-1"], "gallery must be from 0 to 1000, got -1"),
        (["report", "RUN", "NEW", "--picture-size", "9"], "picture_size must be from 64 to 4096, got 9"),
        (["report", "NONE", "NEW"], "no plan in"),
        (["show", "RUN", "--image", ".png", "--to", "NEW.png"], "images end with '.png'"),
        (["show", "RUN", "--image", "77", "--to", "NEW.png"], "no image of"),
        (["show", "RUN", "--image", "3", "--to", "NEW.png"], "has no masks: decode_error"),
        (["show", "RUN", "--image", "0", "--to", "NEW.gif"], "a picture is called .png"),
        (["show", "RUN", "--image", "0", "--to", "FILE"], "a picture is called .png"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_in_one_line(cli, run, tmp_path, arguments, words):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("kept")
    places = {"RUN": run, "NONE": tmp_path / "none", "FOLDER": tmp_path / "folder", "FILE": tmp_path / "file"}
    places |= {"NEW": tmp_path / "new", "FILE/page.html": tmp_path / "file" / "page.html"}
    places |= {f"NEW{ending}": tmp_path / f"new{ending}" for ending in (".png", ".gif")}
    code, out, err = cli(*(places.get(argument, argument) for argument in arguments))
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert words in err
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]
    assert (tmp_path / "file").read_text() == "kept"


def test_report_does_not_write_where_the_run_keeps_its_tables(cli, tmp_path):
    output = write_picture_run(tmp_path, ["0.png"])
    before = sorted(tmp_path.rglob("*"))
    code, out, err = cli("report", output, f"{output}/masks/page.html")
    assert (code, out) == (2, "")
    assert err == f"error: {output}/masks/page.html lies in a table of {output}; give a place of its own\n"
    assert sorted(tmp_path.rglob("*")) == before


def test_show_does_not_write_where_the_run_keeps_its_tables(cli, tmp_path):
    output = write_picture_run(tmp_path, ["0.png"])
    before = sorted(tmp_path.rglob("*"))
    code, out, err = cli("show", output, "--image", 0, "--to", f"{output}/images/0.png")
    assert (code, out) == (2, "")
    assert err == f"error: {output}/images/0.png lies in a table of {output}; give a place of its own\n"
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.s3
def test_pages_and_pictures_are_written_to_a_bucket(cli, run, s3, monkeypatch, tmp_path):
    for name, value in s3.env.items():
        monkeypatch.setenv(name, value)
    bucket = s3.create_bucket()
    assert cli("report", run, f"s3://{bucket}/pages/masks.html")[0] == 0
    code, _, err = cli("report", run, f"s3://{bucket}/pages/masks.html")
    assert (code, "exists already" in err) == (2, True)
    assert cli("show", run, "--image", 0, "--to", f"s3://{bucket}/0.png")[0] == 0
    code, _, err = cli("report", run, "s3://no-such-bucket-of-this-test/masks.html")
    assert code == 2
    assert "cannot write" in err
