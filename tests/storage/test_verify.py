from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sam_pipeline.errors import OutputError, StorageUnavailableError
from sam_pipeline.masks import rle
from sam_pipeline.masks.runs import Runs
from sam_pipeline.storage import verify as verify_module
from sam_pipeline.storage.prompt_table import write_prompts
from sam_pipeline.storage.schema import PROMPTS_SCHEMA
from sam_pipeline.storage.verify import verify
from tests.storage.runs import HEIGHT, WIDTH, failed_row, finished, mask, plan, row, shard

# pycocotools builds its arrays the way NumPy 1 wanted it; until it does otherwise, decoding warns.


@pytest.fixture
def output(tmp_path):
    return str(tmp_path)


def with_mask(**changes):
    """Four images, of which number 2 has a mask with other values."""
    return [row(0), row(1), row(2, 1, masks=[mask(7) | changes]), failed_row(3)]


def the_problem(output, rows, num_images=None):
    finished(output, rows, num_images)
    result = verify(output, {})
    assert not result.ok
    (problem,) = result.problems
    return result, problem


def test_a_sound_run_has_no_problems(output):
    finished(output, [row(0), row(1, 0), failed_row(2), failed_row(3, "too_large"), row(4)])
    result = verify(output, {})
    assert result.ok
    assert result.problems == []
    assert (result.num_planned, result.num_rows, result.num_masks) == (5, 5, 4)


def test_an_empty_mask_is_sound(output):
    nothing = rle.encode(Runs.of_mask(np.zeros((HEIGHT, WIDTH), bool)))
    finished(output, with_mask(segmentation=nothing, bbox=[0, 0, 0, 0], area=0))
    assert verify(output, {}).ok


def test_what_was_never_committed_is_left_and_not_lost(output):
    result, problem = the_problem(output, [row(0), row(2)], num_images=4)
    assert (result.num_left, result.num_lost, result.num_twice, result.num_bad_masks) == (2, 0, 0, 0)
    assert problem == f"left to do: 2 of 4 images; annotate --output {output} goes on with them"


def test_of_a_run_that_was_only_planned_everything_is_left(output):
    plan(output, 3)
    result = verify(output, {})
    assert (result.ok, result.num_planned, result.num_rows, result.num_left, result.num_lost) == (False, 3, 0, 3, 0)


def test_what_is_left_and_what_is_lost_are_told_apart(output):
    table = finished(output, [row(0), row(1)], num_images=7)
    broken = shard(output, [row(2), row(3)])
    table.commit([broken])
    Path(output, "masks", broken.file.path).unlink()
    result = verify(output, {})
    assert (result.num_rows, result.num_left, result.num_lost) == (2, 3, 2)
    assert result.problems[-1].startswith("left to do: 3 of 7 images; ")


@pytest.mark.parametrize("times", [2, 3, 300])
def test_a_doubled_row_is_found_however_often_it_is_there(output, times):
    result, problem = the_problem(output, [row(0), row(1)] + [row(2, 0)] * times, num_images=3)
    assert (result.num_lost, result.num_twice, result.num_bad_masks) == (0, 1, 0)
    assert problem == "image 2 has more than one row"


@pytest.mark.parametrize("image_id", [-1, 3])
def test_a_row_of_no_planned_image_is_found(output, image_id):
    result, problem = the_problem(output, [row(0), row(1), row(2), row(5) | {"image_id": image_id}], num_images=3)
    assert result.num_bad_masks == 1
    assert problem == f"image_id {image_id} is not in the plan"


def test_a_wrong_area_is_found(output):
    right = mask(7)["area"]
    _, problem = the_problem(output, with_mask(area=right + 1))
    assert problem == f"image 2 (file:///in/0002.jpg): mask 0 has {right} pixels, its area says {right + 1}"


@pytest.mark.parametrize("axis", range(4))
def test_a_wrong_bbox_is_found(output, axis):
    bbox = list(mask(7)["bbox"])
    bbox[axis] += 1
    _, problem = the_problem(output, with_mask(bbox=bbox))
    assert problem.endswith(f"mask 0 spans {mask(7)['bbox']}, its bbox says {bbox}")


@pytest.mark.parametrize("counts", ["", "1", "\x7f\x7f\x7f", "zzzzzzzz", None])
def test_a_mask_that_does_not_decode_is_found(output, counts):
    _, problem = the_problem(output, with_mask(segmentation={"size": [HEIGHT, WIDTH], "counts": counts}))
    assert "image 2 (file:///in/0002.jpg): mask 0 " in problem


@pytest.mark.parametrize("size", [[WIDTH, HEIGHT], [HEIGHT], [], None, [-1, 5], [200_000, 200_000]])
def test_a_mask_of_another_size_is_found_before_memory_is_taken_for_it(output, size):
    _, problem = the_problem(
        output, with_mask(segmentation={"size": size, "counts": mask(7)["segmentation"]["counts"]})
    )
    assert problem.endswith(f"mask 0 has size {size}, the image {HEIGHT}x{WIDTH}")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"status": "decode_error", "num_masks": 0, "masks": []}, "status decode_error needs an error and no masks"),
        ({"status": "fetch_error", "error": "gone"}, "status fetch_error needs an error and no masks"),
        ({"error": "odd"}, "status ok needs a height and a width, and no error"),
        ({"height": None, "num_masks": 0, "masks": []}, "status ok needs a height and a width, and no error"),
        ({"uri": "file:///in/0000.jpg"}, "the plan has another uri for this image_id"),
        ({"num_masks": 5}, "num_masks is 5 but there are 2 masks"),
    ],
)
def test_a_row_that_contradicts_itself_is_found(output, changes, problem):
    uri = changes.get("uri", "file:///in/0001.jpg")
    assert the_problem(output, [row(0), row(1) | changes])[1] == f"image 1 ({uri}): {problem}"


def test_an_unknown_status_is_found(output):
    _, problem = the_problem(output, [row(0), failed_row(1, "lost")])
    assert problem == "image 1 (file:///in/0001.jpg): there is no status 'lost'"


@pytest.mark.parametrize("num_planned_at_once", [1, 2, 3, 100])
def test_uris_are_compared_with_the_whole_plan(output, num_planned_at_once, monkeypatch):
    monkeypatch.setattr(verify_module, "_PLANNED_AT_ONCE", num_planned_at_once)
    finished(output, [row(index, 0) for index in range(5)])
    assert verify(output, {}).ok


def _cut(path):
    path.write_bytes(path.read_bytes()[:-20])


def _overwrite(path):
    content = bytearray(path.read_bytes())
    content[4 : len(content) // 2] = bytes(len(content) // 2 - 4)
    path.write_bytes(content)


def _replace(path):
    pq.write_table(pa.table({"image_id": [2]}), path)


@pytest.mark.parametrize("damage", [Path.unlink, _cut, _overwrite, _replace])
def test_a_shard_that_cannot_be_read_is_found_and_the_others_are_checked(output, damage):
    table = finished(output, [row(0), row(1)], num_images=4)
    broken = shard(output, [row(2), row(3)])
    table.commit([broken])
    damage(Path(output, "masks", broken.file.path))
    result = verify(output, {})
    assert (result.num_rows, result.num_lost, result.num_bad_masks) == (2, 2, 1)
    assert result.problems[0].startswith(f"masks/{broken.file.path}, of 2 images, cannot be read: ")
    assert result.problems[1:] == ["image 2 has lost its row", "image 3 has lost its row"]


def test_storage_that_does_not_answer_is_no_problem_of_a_shard(output, monkeypatch, clock):
    finished(output, [row(0), row(1)])

    def fail(*arguments):
        raise OSError("Generic S3 error: HTTP error: error sending request")

    monkeypatch.setattr(verify_module.pq.ParquetFile, "read_row_group", fail)
    with pytest.raises(StorageUnavailableError):
        verify(output, {})


def test_everything_is_counted_but_only_the_first_problems_are_told(output, monkeypatch):
    monkeypatch.setattr(verify_module, "_MAX_PROBLEMS", 3)
    finished(output, [row(index) | {"num_masks": 9} for index in range(10)])
    result = verify(output, {})
    assert result.num_bad_masks == 10
    assert len(result.problems) == 3


def test_what_is_no_run_is_an_output_error(output):
    with pytest.raises(OutputError, match="no plan in"):
        verify(output, {})


def test_each_planned_prompt_must_have_a_mask_or_an_error(output):
    def answer(prompt_id):
        return mask(prompt_id) | {"prompt_id": prompt_id}

    error = {"role": "prompt", "prompt_id": 8, "error": "no area"}
    region = {"role": "region", "prompt_id": 9, "error": "no area"}
    rows = [
        row(0, masks=[answer(0), mask(5), answer(1)], num_masks=3, prompt_errors=[error]),
        row(1, masks=[answer(0), mask(5)], num_masks=2, prompt_errors=[region]),
        row(2),
        failed_row(3),
        row(4, masks=[answer(0)], num_masks=1),
    ]
    prompts = [(0, 0), (0, 1), (0, 8), (1, 0), (1, 1), (3, 0)]
    table = [
        {"image_id": image_id, "role": "prompt", "prompt_id": prompt_id, "is_relative": False}
        for image_id, prompt_id in prompts
    ]
    table.append({"image_id": 1, "role": "region", "prompt_id": 9, "is_relative": False})
    write_prompts(output, pa.Table.from_pylist(table, schema=PROMPTS_SCHEMA), {}, 5, {})
    finished(output, rows)
    result = verify(output, {})
    assert result.num_bad_masks == 2
    assert sorted(result.problems) == [
        "image 1 (file:///in/0001.jpg): 1 prompts are answered, 2 were planned",
        "image 4 (file:///in/0004.jpg): 1 prompts are answered, 0 were planned",
    ]
