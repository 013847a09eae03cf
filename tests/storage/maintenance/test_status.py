import re
import shlex

import pyarrow as pa
import pytest

from sam_pipeline.errors import OutputError
from sam_pipeline.storage.maintenance.status import Outcome, read_outcome
from sam_pipeline.storage.tables.prompts import write_prompts
from sam_pipeline.storage.tables.schema import PROMPTS_SCHEMA
from tests.storage.runs import failed_row, finished, mask, plan, row


@pytest.fixture
def output(tmp_path):
    return str(tmp_path / "run")


def prompts_of(output, num_images, *prompts):
    """Freeze prompts, (image_id, prompt_id) or (image_id, prompt_id, role) each."""
    rows = [
        {"image_id": image_id, "role": role[0] if role else "prompt", "prompt_id": prompt_id, "is_relative": False}
        for image_id, prompt_id, *role in prompts
    ]
    return write_prompts(output, pa.Table.from_pylist(rows, schema=PROMPTS_SCHEMA), {}, num_images, {})


def answer(prompt_id):
    return mask(prompt_id) | {"prompt_id": prompt_id}


def unusable(prompt_id, role="prompt"):
    return {"role": role, "prompt_id": prompt_id, "error": "no area"}


def test_a_run_in_which_everything_succeeded_has_no_failure(output):
    finished(output, [row(0), row(1, 0), row(2)])
    outcome = read_outcome(output, None, 3, {})
    assert (outcome.num_images, outcome.num_by_status, outcome.num_masks) == (3, {"ok": 3}, 4)
    assert (outcome.total_failure, outcome.partial_failure) == (None, None)


def test_a_run_in_which_no_image_succeeded_says_which_statuses_an_example_and_the_remedy(output):
    finished(output, [failed_row(0), failed_row(1), failed_row(2, "too_large")])
    line = read_outcome(output, None, 3, {}).total_failure
    assert re.fullmatch(
        r"none of the 3 images could be annotated: 2 decode_error, 1 too_large, such as file:///in/000\d.jpg: the file "
        rf"is empty; `sam-pipeline retry {output} --status decode_error too_large` lets the next annotate do .*",
        line,
    )


def test_changed_images_are_changed_once_more_unless_the_plan_is_corrected():
    redo = "lets the next annotate do them again; for changed ones give it --extend, --redo-changed and --input"
    line = Outcome("/run", {"ok": 1, "changed": 2, "fetch_error": 1}, 0, "a.png: gone").partial_failure
    assert line.endswith(f"`sam-pipeline retry /run --status changed fetch_error` {redo}")


def test_the_remedy_can_be_pasted_whatever_the_output_is_called():
    line = Outcome("my 'runs'", {"too_large": 1}, 0, "a.png: large").total_failure
    assert shlex.split(line.split("`")[1]) == ["sam-pipeline", "retry", "my 'runs'", "--status", "too_large"]


def test_prompts_that_were_not_used_are_counted_by_role(output):
    prompts = prompts_of(output, 3, (0, 0), (0, 1), (1, 2), (1, 7, "region"))
    finished(
        output,
        [
            row(0, 1, masks=[answer(0)], prompt_errors=[unusable(1)]),
            row(1, 1, masks=[answer(2)], prompt_errors=[unusable(7, "region")]),
            row(2, 0),
        ],
    )
    outcome = read_outcome(output, prompts, 3, {})
    assert outcome.num_planned == {"prompt": 3, "region": 1}
    assert outcome.num_unusable == {"prompt": 1, "region": 1}
    assert (outcome.num_answered, outcome.total_failure) == (2, None)
    line = "1 of 3 prompts and 1 of 1 regions were not used, such as file:///in/0000.jpg: no area"
    assert outcome.partial_failure == line


@pytest.mark.parametrize("of_grid", [[], [mask(5)]])
def test_a_run_in_which_no_prompt_has_a_mask_is_a_failure_whatever_the_grid_found(output, of_grid):
    prompts = prompts_of(output, 3, (0, 0), (0, 1), (1, 2))
    rows = [row(0, len(of_grid), masks=of_grid, prompt_errors=[unusable(0), unusable(1)]), failed_row(1), row(2, 0)]
    finished(output, rows)
    line = read_outcome(output, prompts, 3, {}).total_failure
    assert line == (
        "none of the 3 prompts has a mask: 2 unusable, such as file:///in/0000.jpg: no area; give others with another "
        "--output"
    )


def test_prompts_whose_images_failed_have_no_mask(output):
    prompts = prompts_of(output, 2, (1, 0))
    finished(output, [row(0, 0), failed_row(1)])
    assert "none of the 1 prompts has a mask: their images failed" in read_outcome(output, prompts, 2, {}).total_failure


def test_without_results_there_is_no_outcome(output):
    plan(output, 2)
    with pytest.raises(OutputError, match="no results in"):
        read_outcome(output, None, 2, {})
