from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sam_pipeline.errors import DamagedFileError, FencedError, OutputError, StorageUnavailableError
from sam_pipeline.masks.runs import rle
from sam_pipeline.masks.runs.runs import Runs
from sam_pipeline.storage.inputs.source_object import SourceObject, source_table
from sam_pipeline.storage.maintenance import verify as verify_module
from sam_pipeline.storage.maintenance.verify import retry_damaged, verify
from sam_pipeline.storage.tables import fenced_table
from sam_pipeline.storage.tables import plan as plan_module
from sam_pipeline.storage.tables.plan import extend_plan, read_plan
from sam_pipeline.storage.tables.prompts import write_prompts
from sam_pipeline.storage.tables.reading import table_reading
from sam_pipeline.storage.tables.reading.prompt_reading import count_prompts
from sam_pipeline.storage.tables.schema import IMAGES_SCHEMA, PROMPTS_SCHEMA
from tests.storage.runs import HEIGHT, WIDTH, failed_row, finished, mask, plan, row, shard, take_over

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
    assert problem == f"left to do: 2 of 4 images; sam-pipeline annotate --output {output} goes on with them"


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


def _flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [Path.unlink, _cut, _overwrite, _replace, _flip])
def test_a_damaged_shard_is_found_and_the_others_are_checked(output, damage):
    broken = finished_with_a_shard(output, [row(2), row(3)])
    damage(broken)
    result = verify(output, {})
    assert (result.num_rows, result.num_lost, result.num_bad_masks) == (2, 2, 1)
    what = "missing" if damage is Path.unlink else "damaged: its bytes are not those that were written"
    assert result.problems == [
        f"{broken} is {what}; it holds 2 images",
        "image 2 has lost its row",
        "image 3 has lost its row",
    ]
    assert [file.path for file in result.damaged_files] == [broken.name]


def finished_with_a_shard(output, rows):
    """Four images, of which two are in a shard of their own; returns its path."""
    table = finished(output, [row(0), row(1)], num_images=4)
    last = shard(output, rows)
    table.commit([last])
    return Path(output, "masks", last.file.path)


@pytest.mark.parametrize("damage", [Path.unlink, _cut, _overwrite, _replace])
def test_a_damaged_shard_of_an_earlier_version_is_found(output, damage, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(fenced_table.hashlib, "sha256", lambda content: SimpleNamespace(hexdigest=lambda: "of-1.0"))
        broken = finished_with_a_shard(output, [row(2), row(3)])
    assert verify(output, {}).ok
    damage(broken)
    result = verify(output, {})
    assert (result.num_rows, result.num_lost, result.num_bad_masks) == (2, 2, 1)
    assert [file.path for file in result.damaged_files] == [broken.name]


def test_a_shard_that_cannot_be_fetched_is_a_problem_and_not_damage(output, monkeypatch):
    forbidden = finished_with_a_shard(output, [row(2), row(3)])
    fail_to_fetch(monkeypatch, forbidden.name, PermissionError(13, "Permission denied"))
    result = verify(output, {})
    assert (result.num_bad_masks, result.damaged_files, result.is_repairable) == (1, [], False)
    assert "Permission denied" in result.problems[0]
    assert retry_damaged(output, {}) == 0


def fail_to_fetch(monkeypatch, name, error):
    real = table_reading.table_filesystem

    def table_filesystem(*arguments):
        filesystem = real(*arguments)

        def open_input_file(path):
            if name is None or path == name:
                raise error
            return filesystem.open_input_file(path)

        return SimpleNamespace(open_input_file=open_input_file)

    monkeypatch.setattr(table_reading, "table_filesystem", table_filesystem)


def test_storage_that_does_not_answer_is_no_problem_of_a_shard(output, monkeypatch, clock):
    finished(output, [row(0), row(1)])
    fail_to_fetch(monkeypatch, None, OSError("Generic S3 error: HTTP error: error sending request"))
    with pytest.raises(StorageUnavailableError):
        verify(output, {})


@pytest.mark.parametrize("table", ["images", "prompts"])
def test_a_damaged_file_of_the_plan_or_the_prompts_is_an_error(output, table):
    prompt = {"image_id": 0, "role": "region", "prompt_id": 0, "is_relative": False}
    write_prompts(output, pa.Table.from_pylist([prompt], schema=PROMPTS_SCHEMA), {}, 2, {})
    finished(output, [row(0), row(1)])
    assert verify(output, {}).ok
    (file,) = Path(output, table).glob("*.parquet")
    _flip(file)
    with pytest.raises(DamagedFileError, match=f"{file} is damaged"):
        verify(output, {})


@pytest.mark.parametrize("damage", [Path.unlink, _cut, _overwrite, _replace, _flip])
def test_after_a_retry_of_what_is_damaged_its_images_are_pending_and_the_run_can_be_finished(output, damage):
    broken = finished_with_a_shard(output, [row(2), row(3)])
    damage(broken)
    assert retry_damaged(output, {}) == 2
    table = take_over(output)
    assert table.committed_ids(4).tolist() == [True, True, False, False]
    table.commit([shard(output, [row(2), row(3)])])
    table.compact()
    assert verify(output, {}).ok
    assert retry_damaged(output, {}) == 0


def test_unsound_and_doubled_rows_are_done_again_too(output):
    rows = [row(0), row(1), row(2, 1, masks=[mask(7) | {"area": 1}]), row(3), row(3), row(0) | {"image_id": 9}]
    finished(output, rows, num_images=4)
    result = verify(output, {})
    assert result.unsound_ids == {2, 3, 9}
    assert retry_damaged(output, {}) == 4
    assert take_over(output).committed_ids(4).tolist() == [True, True, False, False]


def test_a_retry_of_what_is_damaged_fences_a_run_in_progress(output):
    running = finished(output, [row(0), row(1)])
    assert retry_damaged(output, {}) == 0
    with pytest.raises(FencedError):
        running.commit([shard(output, [row(1)])])


def test_a_plan_that_is_extended_meanwhile_loses_and_adds_nothing(output, monkeypatch):
    finished(output, [row(0), row(1)])
    plan_of_two = read_plan(output, {})
    extend_plan(plan_of_two, source_table([SourceObject("file:///in/0002.jpg", 1, "e")]), NOTHING_CHANGED, {})
    table = take_over(output)
    table.commit([shard(output, [row(2)])])
    write_prompts(output, pa.Table.from_pylist([PROMPT_OF_IMAGE_2], schema=PROMPTS_SCHEMA), {}, 3, {})
    assert count_prompts(output, 2, {}).tolist() == [0, 0]
    assert table.committed_ids(2).tolist() == [True, True]
    monkeypatch.setattr(plan_module, "existing_plan", lambda *_: plan_of_two)
    result = verify(output, {})
    assert result.problems == ["image_id 2 is not in the plan"]  # as it was read; verify itself reads it last


NOTHING_CHANGED = IMAGES_SCHEMA.empty_table()
PROMPT_OF_IMAGE_2 = {"image_id": 2, "role": "prompt", "prompt_id": 0, "is_relative": False}


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
