"""Looks at a run: what they tell, and what they read again. The rate: tests/storage/tables/test_results.py."""

import shutil

import pyarrow as pa
import pytest

from sam_pipeline.errors import OutputError
from sam_pipeline.storage.maintenance import watching
from sam_pipeline.storage.maintenance.progress import ErrorKind
from sam_pipeline.storage.maintenance.watching import RunWatch
from sam_pipeline.storage.tables.prompts import write_prompts
from sam_pipeline.storage.tables.results import delete_rows
from sam_pipeline.storage.tables.schema import PROMPTS_SCHEMA
from tests.storage.runs import failed_row, mask, plan, row, shard, take_over


@pytest.fixture
def output(tmp_path):
    return str(tmp_path / "run")


@pytest.fixture
def opened(monkeypatch):
    """The files that were opened for their counts."""
    names = []
    real = watching.read_columns

    def read_columns(table, columns, options, *, files, pre_buffer):
        names.extend(file.path for file in files)
        return real(table, columns, options, files=files, pre_buffer=pre_buffer)

    monkeypatch.setattr(watching, "read_columns", read_columns)
    return names


def test_a_look_opens_no_file_that_an_earlier_one_has_opened(output, opened):
    plan(output, 8)
    table, watch = take_over(output), RunWatch(output, {})
    for image_id in range(3):
        table.commit([shard(output, [row(image_id, image_id)])])
        assert watch.look().num_done == image_id + 1
        assert watch.look().state.num_masks == sum(range(image_id + 1))
    assert len(opened) == len(set(opened)) == 3
    table.compact()
    look = watch.look()
    assert (look.num_done, look.num_left, look.state.num_masks) == (3, 5, 3)
    assert len(opened) == 4


def test_a_look_asks_the_log_for_new_entries_alone(output, monkeypatch):
    plan(output, 8)
    table, watch = take_over(output), RunWatch(output, {})
    table.commit([shard(output, [row(0)])])
    watch.look()
    asked = []
    real = watching.Table.history

    def history(table, limit=None):
        asked.extend([limit] if table.uri.endswith("/masks") else [])
        return real(table, limit)

    monkeypatch.setattr(watching.Table, "history", history)
    for image_id in (1, 2):
        table.commit([shard(output, [row(image_id)] * image_id)])
    assert [count for _, count in watch.look().state.commits] == [1, 1, 2]
    watch.look()
    assert asked == [2]


def test_a_commit_that_comes_during_a_look_is_counted_once(output, monkeypatch):
    plan(output, 8)
    table, watch = take_over(output), RunWatch(output, {})
    table.commit([shard(output, [row(0)])])
    real, later = watching.Table.history, [1, 2, 3]

    def history(opened, limit=None):
        if later and opened.uri.endswith("/masks"):
            table.commit([shard(output, [row(later.pop(0))])])
        return real(opened, limit)

    monkeypatch.setattr(watching.Table, "history", history)
    numbers = [len(watch.look().state.commits) for _ in range(5)]
    assert numbers == [1, 2, 3, 4, 4]


def test_an_output_that_was_removed_and_begun_again_is_read_anew(output):
    plan(output, 8)
    table, watch = take_over(output), RunWatch(output, {})
    for image_id in range(4):
        table.commit([shard(output, [row(image_id)])])
    assert watch.look().num_done == 4
    shutil.rmtree(output)
    plan(output, 6)
    take_over(output).commit([shard(output, [row(5, 1)])])
    look = watch.look()
    assert (look.plan.num_images, look.num_done, look.state.num_masks, len(look.state.commits)) == (6, 1, 1, 1)


def test_each_kind_of_error_is_counted_with_an_example(output):
    plan(output, 8)
    table, watch = take_over(output), RunWatch(output, {})
    table.commit([shard(output, [row(0), failed_row(1), failed_row(2, "too_large")])])
    too_large = ErrorKind("too_large", 1, "file:///in/0002.jpg: the file is empty")
    assert watch.look().state.errors == (
        ErrorKind("decode_error", 1, "file:///in/0001.jpg: the file is empty"),
        too_large,
    )
    table.commit([shard(output, [failed_row(3), failed_row(4)])])
    # The example stays the same.
    found = ErrorKind("decode_error", 3, "file:///in/0001.jpg: the file is empty")
    assert watch.look().state.errors == (found, too_large)
    delete_rows(output, ["decode_error"], {})
    assert watch.look().state.errors == (too_large,)


def test_an_example_whose_file_is_gone_gives_way_to_another(output):
    plan(output, 8)
    table, watch = take_over(output), RunWatch(output, {})
    table.commit([shard(output, [row(0), failed_row(1)])])
    watch.look()
    table.commit([shard(output, [failed_row(2)])])
    table.delete_images([1])
    assert watch.look().state.errors == (ErrorKind("decode_error", 1, "file:///in/0002.jpg: the file is empty"),)


def test_prompts_and_regions_that_were_not_used_are_kinds_of_errors(output):
    roles = ["prompt", "prompt", "region"]
    rows = [{"image_id": 0, "role": role, "prompt_id": index, "is_relative": False} for index, role in enumerate(roles)]
    write_prompts(output, pa.Table.from_pylist(rows, schema=PROMPTS_SCHEMA), {}, 2, {})
    plan(output, 2)
    table, watch = take_over(output), RunWatch(output, {})
    assert watch.look().num_planned_prompts == {"prompt": 2, "region": 1}
    errors = [
        {"role": "prompt", "prompt_id": 1, "error": "no area"},
        {"role": "region", "prompt_id": 2, "error": "outside"},
    ]
    answered = row(0, 1, masks=[mask(0) | {"prompt_id": 0}], prompt_errors=errors)
    table.commit([shard(output, [row(1, 0), answered])])
    assert watch.look().state.errors == (
        ErrorKind("prompt", 1, "file:///in/0000.jpg: no area"),
        ErrorKind("region", 1, "file:///in/0000.jpg: outside"),
    )


def test_before_the_first_start_a_run_has_a_plan_and_no_state(output):
    with pytest.raises(OutputError, match="no plan in"):
        RunWatch(output, {}).look()
    plan(output, 3)
    watch = RunWatch(output, {})
    assert (watch.look().state, watch.look().num_left) == (None, 3)
    take_over(output)
    assert (watch.look().state.num_masks, watch.look().last_commit_age_s) == (0, None)
