"""Exit codes of runs in which nothing, or not everything, succeeded, with an engine that finds rectangles.

The other codes: 1 of verify is in tests/cli/test_commands.py, 1 of a run that stopped in tests/faults/test_poison.py, 2
in test_refusals.py, 3 in tests/faults/test_races.py.
"""

import json
from pathlib import Path

import pytest

from tests.end_to_end.tables import read_rows
from tests.faults.fake_engine import SIZE, image_file

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


@pytest.fixture
def annotate(start, tmp_path):
    """Run the fake pipeline over tmp_path/in; returns how it ended."""
    (tmp_path / "in").mkdir()

    def run(*flags, output="out"):
        common = ("--output", tmp_path / output, "--model-type", "vit_t", "--num-cpus", 2, "--threads", 1)
        arguments = ("annotate", "--input", tmp_path / "in", *common, *flags)
        return start("-m", "tests.faults.fake_run", *arguments, script="python", env={"PYTHONPATH": str(ROOT)}).wait()

    return run


def save(folder, number, *, is_damaged=False):
    data = image_file(number)
    (folder / "in" / f"{number}.png").write_bytes(data[:40] if is_damaged else data)


def last_line(finished):
    return finished.stderr.splitlines()[-1]


@pytest.mark.soak  # half a minute for four starts; in CI the next test ends with 1
def test_a_run_without_an_image_that_is_ok_ends_with_1_and_can_be_planned_anew(annotate, start, tmp_path):
    for number in range(3):
        save(tmp_path, number, is_damaged=True)
    failed = annotate()
    assert failed.exit_code == 1, failed.stderr
    assert "images         3 (3 decode_error)" in failed.stdout
    assert last_line(failed).startswith(
        "error: none of the 3 images could be annotated: 3 decode_error, such as file:///"
    )
    again = annotate()
    assert (again.exit_code, last_line(again)) == (1, last_line(failed))
    refused = annotate("--replan")
    assert refused.exit_code == 2
    assert "has results of 3 images, so its plan stays" in last_line(refused)
    # The remedies that the messages name.
    assert start("retry", tmp_path / "out", "--status", "decode_error").wait().exit_code == 0
    for number in range(2):
        save(tmp_path, number)
    partial = annotate("--replan")
    assert partial.exit_code == 0, partial.stderr
    # However it is wrapped.
    assert "1of3imagesfailed:1decode_error,suchasfile:///" in "".join(partial.stderr.split())
    assert [row["status"] for row in read_rows(str(tmp_path / "out"))] == ["ok", "ok", "decode_error"]
    assert start("verify", tmp_path / "out").wait().exit_code == 0


def test_a_run_in_which_no_prompt_has_a_mask_ends_with_1(annotate, start, tmp_path):
    for number in range(3):
        save(tmp_path, number)
    outside = {"bbox": [SIZE + 2, SIZE + 2, 3, 3]}
    boxes = [{"image_id": 10 + number, **outside} for number in range(3)]
    names = [{"id": 10 + number, "file_name": f"{number}.png"} for number in range(3)]
    (tmp_path / "names.json").write_text(json.dumps({"images": names}))
    flags = ("--prompts", tmp_path / "boxes.json", "--prompt-images", tmp_path / "names.json")
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    failed = annotate(*flags)
    assert failed.exit_code == 1, failed.stderr
    assert "prompts        3 (3 unusable)" in failed.stdout
    assert last_line(failed).startswith("error: none of the 3 prompts has a mask: 3 unusable, such as file:///")
    status = start("status", tmp_path / "out").wait()
    assert status.exit_code == 0
    assert "prompts 3 (3 unusable)" in " ".join(status.stdout.split())
