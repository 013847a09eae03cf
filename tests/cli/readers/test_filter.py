"""The command filter, and what the other commands say of a run that it has made."""

import re

import pytest

from tests.cli.test_commands import refused, usage_refused
from tests.storage.image_files import noise, saved
from tests.storage.runs import failed_row, finished, mask, row

SCORES = ([0.5, 0.9], [0.95])


@pytest.fixture
def source(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    rows = [
        row(number, len(scores), masks=[mask(i) | {"predicted_iou": iou} for i, iou in enumerate(scores)])
        for number, scores in enumerate(SCORES)
    ]
    finished(str(tmp_path / "run"), [*rows, failed_row(2)])
    return tmp_path / "run"


@pytest.fixture
def new(source, cli, tmp_path):
    assert cli("filter", source, "--into", tmp_path / "new", "--pred-iou-thresh", 0.6, "--max-masks", 3)[0] == 0
    return tmp_path / "new"


def test_it_says_what_is_kept_and_what_drops_the_others(cli, source, tmp_path):
    code, out, err = cli(
        *(
            "filter",
            source,
            "--into",
            tmp_path / "new",
            "--pred-iou-thresh",
            0.6,
            "--max-masks",
            1,
            "--exclude",
            "*2.jpg",
        )
    )
    assert (code, err) == (0, "")
    rows = dict(re.split(r"  +", line, maxsplit=1) for line in out.splitlines())
    assert int(rows.pop("bytes read")) > 1000
    assert rows == {
        "output": str(tmp_path / "new"),
        "filtered from": f"{source}, version 3",
        "images": "2",
        "left out": "1 by include and exclude",
        "image ids": "new, from 0; the URI tells which image is which",
        "masks kept": "2",
        "masks dropped": "1 (1 pred_iou_thresh)",
    }


def test_an_unfinished_run_is_filtered_and_said_to_be_unfinished(cli, tmp_path, caplog):
    finished(str(tmp_path / "run"), [row(0)], num_images=3)
    code, out, _ = cli("filter", tmp_path / "run", "--into", tmp_path / "new")
    assert code == 0
    assert re.search(r"^not annotated +2$", out, re.MULTILINE)
    (words,) = caplog.messages
    assert words == f"{tmp_path}/run is unfinished: 2 of its images have no row yet, and are not in {tmp_path}/new"
    assert cli("verify", tmp_path / "new")[0] == 0


def test_status_says_what_a_run_was_filtered_from_and_how(cli, source, new, tmp_path):
    out = cli("status", new)[1]
    assert re.search(rf"filtered from +{source}, version 3, by max_masks=3 pred_iou_thresh=0\.6\n", out)
    assert re.search(r"done +3 \(2 ok, 1 decode_error\)\n", out)
    assert cli("filter", new, "--into", tmp_path / "again", "--category-ids", 1, 2, "--drop-border")[0] == 0
    out = cli("status", tmp_path / "again")[1]
    assert re.search(
        r"filter 1 +.*run, version 3, by .*\nfilter 2 +.*new, .* by category_ids=1,2 drop_border=True\n", out
    )


def test_verify_and_vacuum_take_it_for_a_run(cli, new):
    code, out, err = cli("verify", new)
    assert (code, err) == (0, "")
    assert re.search(r"planned +3\nrows +3\nmasks +2\n", out)
    assert cli("vacuum", new)[0] == 0


@pytest.mark.parametrize(
    "command",
    [
        ["annotate", "--output"],
        ["annotate", "--extend", "--input", "in", "--output"],
        ["annotate", "--replan", "--input", "in", "--output"],
        ["plan", "--output"],
        ["plan", "--extend", "--input", "in", "--output"],
        ["retry", "--status", "decode_error", "--"],
        ["retry", "--damaged"],
    ],
)
def test_no_command_annotates_its_images(cli, source, new, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "0.png").write_bytes(saved(noise(), "PNG"))
    assert refused(cli, *command, new) == (
        f"{new} was filtered from {source}, so no image of it is annotated: extend, retry or annotate {source}, and "
        "filter it again into another folder"
    )
    assert cli("verify", new)[0] == 0


def test_what_is_damaged_is_filtered_again(cli, source, new):
    next((new / "masks").glob("*.parquet")).unlink()
    code, _, err = cli("verify", new)
    assert code == 1
    assert err.endswith(
        "to filter again what is damaged or unsound, into another folder: "
        f"sam-pipeline filter {source} --into NEW --max-masks 3 --pred-iou-thresh 0.6\n"
    )


def test_looser_than_a_filter_is_refused(cli, source, new, tmp_path):
    words = refused(cli, "filter", new, "--into", tmp_path / "again", "--pred-iou-thresh", 0.5)
    assert words.startswith("pred_iou_thresh = 0.5 is looser than the run's 0.6")
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["none", "--into", "new"], "no plan in"),
        (["run", "--into", "run"], "holds another run"),
        (["run", "--into", "photos"], "holds 'cat.jpg'"),
        (["run", "--into", "run/masks/new"], "lies in a table of"),
        (["run", "--into", "new", "--pred-iou-thresh", "1.2"], "pred_iou_thresh must be in"),
        (["run", "--into", "new", "--max-masks", "0"], "max_masks must be in"),
        (["run", "--into", "new", "--min-area", str(10**400)], "min_area must be in"),
        (["run", "--into", "new", "--category-ids", str(2**70)], "each of category_ids must be of 64 bits"),
        (["run", "--into", "new", "--include", "*.tif"], "include and exclude leave no image"),
        (["run", "--into", "new", "--include", "[z-a]"], "cannot understand the pattern"),
        (["run", "--into", "ftp://host/new"], "ftp"),
        (["run", "--into", "a#b"], "must not hold # or ?"),
        (["run", "--into", "/proc/new"], "cannot use output"),
    ],
)
def test_what_cannot_be_done_is_one_line(cli, source, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("")
    assert words in refused(cli, "filter", *arguments)
    assert not (tmp_path / "new").exists()


def test_where_to_must_be_said(cli, source):
    assert "--into" in usage_refused(cli, "filter", source)
