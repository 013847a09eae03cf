import json
from collections import Counter
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow.compute as pc
import pytest
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError
from pycocotools import mask as coco_mask

from sam_pipeline.errors import ConfigError, FencedError, FingerprintMismatchError, OutputError
from sam_pipeline.storage.maintenance import watching
from sam_pipeline.storage.maintenance.progress import RunState
from sam_pipeline.storage.maintenance.watching import read_state
from sam_pipeline.storage.tables import rewriting
from sam_pipeline.storage.tables.delta import DataFile, committed_files
from sam_pipeline.storage.tables.fenced_table import FencedTable
from sam_pipeline.storage.tables.reading.result_reading import read_results
from sam_pipeline.storage.tables.reading.run_header import check_fingerprint, read_header
from sam_pipeline.storage.tables.results import MaskTable, delete_rows, open_results
from sam_pipeline.storage.tables.schema import MASKS_SCHEMA
from tests.storage.runs import FINGERPRINT, FLOAT_FIELDS, failed_row, finished, row, shard, take_over

ROWS = [row(0), row(1, 0), failed_row(2), row(3, 3), row(4, 1)]


@pytest.fixture
def output(tmp_path):
    return str(tmp_path)


def stored(output):
    rows = read_results(open_results(output, {}), MASKS_SCHEMA.names, None, {})
    return sorted(rows.to_pylist(), key=lambda row: row["image_id"])


def as_stored(rows):
    return [row | {"masks": [mask | FLOAT_FIELDS for mask in row["masks"]]} for row in rows]


def files(output):
    return DeltaTable(f"{output}/masks").file_uris()


def test_what_is_committed_is_read_as_it_was_put(output):
    table = take_over(output)
    shards = [shard(output, ROWS[3:]), shard(output, ROWS[:3])]
    table.commit(shards)
    assert stored(output) == as_stored(ROWS)
    assert DeltaTable(f"{output}/masks").to_pyarrow_table().schema.equals(MASKS_SCHEMA)


def test_a_shard_is_described_without_reading_it_and_sorted_by_image(output):
    take_over(output)
    made = shard(output, [ROWS[3], ROWS[0], ROWS[2]])
    assert (made.file.num_rows, made.file.min_image_id, made.file.max_image_id) == (3, 0, 3)
    assert made.image_ids.tolist() == [0, 2, 3]


def test_committed_ids_are_those_of_committed_shards_only(output):
    table = take_over(output)
    assert table.committed_ids(5).tolist() == [False] * 5
    table.commit([shard(output, [ROWS[1], ROWS[3]])])
    shard(output, [ROWS[0]])
    assert table.committed_ids(5).tolist() == [False, True, False, True, False]
    assert take_over(output).committed_ids(5).tolist() == [False, True, False, True, False]


def test_a_shard_that_was_put_and_not_committed_is_seen_by_nobody(output):
    take_over(output)
    shard(output, ROWS)
    assert stored(output) == []
    assert read_state(output, {}).num_by_status == Counter()


def test_a_later_start_fences_an_earlier_one_for_good(output):
    first = take_over(output)
    first.commit([shard(output, ROWS[:1])])
    late = shard(output, ROWS[1:2])
    second = take_over(output)
    assert second.epoch == first.epoch + 1
    for _ in range(2):
        with pytest.raises(FencedError):
            first.commit([late])
    second.commit([shard(output, ROWS[2:3])])
    with pytest.raises(FencedError):
        first.commit([late])
    assert second.committed_ids(5).tolist() == [True, False, True, False, False]
    assert [row["image_id"] for row in stored(output)] == [0, 2]


def test_a_table_without_rows_takes_on_other_settings_and_fences_who_began_it(output):
    first = take_over(output)
    late = shard(output, ROWS[:1])
    other = dict(FINGERPRINT) | {"points_per_side": 16}
    second = MaskTable.take_over(output, other, {"config": "[]"}, {})
    assert second.epoch == first.epoch + 1
    metadata = read_header(output, {}).metadata
    assert (json.loads(metadata["fingerprint"]), metadata["config"]) == (other, "[]")
    for _ in range(2):
        with pytest.raises(FencedError):
            first.commit([late])
    with pytest.raises(FencedError):
        first.check_fence()
    second.commit([shard(output, ROWS[1:2])])
    assert [row["image_id"] for row in stored(output)] == [1]
    # As in every other table, other readers find rows by their columns.
    dataset = DeltaTable(f"{output}/masks").to_pyarrow_dataset()
    assert dataset.count_rows(filter=pc.field("status") == ROWS[1]["status"]) == 1


def test_a_table_with_other_columns_is_refused_even_without_rows(output):
    first = take_over(output)
    version = DeltaTable(f"{output}/masks").version()
    with pytest.raises(FingerprintMismatchError) as caught:
        take_over(output, FINGERPRINT | {"schema_version": 2, "points_per_side": 16})
    assert caught.value.differences == {"schema_version": (1, 2)}
    assert DeltaTable(f"{output}/masks").version() == version
    first.commit([shard(output, ROWS)])  # still in charge


def test_of_two_that_take_on_a_table_without_rows_one_is_fenced(output, monkeypatch):
    take_over(output)
    real = FencedTable.change_metadata

    def overtaken(*arguments, **options):
        monkeypatch.setattr(FencedTable, "change_metadata", real)
        take_over(output, dict(FINGERPRINT) | {"points_per_side": 4})
        return real(*arguments, **options)

    monkeypatch.setattr(FencedTable, "change_metadata", overtaken)
    with pytest.raises(FencedError):
        take_over(output, dict(FINGERPRINT) | {"points_per_side": 8})
    assert json.loads(read_header(output, {}).metadata["fingerprint"])["points_per_side"] == 4


def test_rows_that_are_committed_meanwhile_keep_their_settings(output, monkeypatch):
    first = take_over(output)
    real = FencedTable.change_metadata

    def overtaken(*arguments, **options):
        first.commit([shard(output, ROWS)])
        return real(*arguments, **options)

    monkeypatch.setattr(FencedTable, "change_metadata", overtaken)
    with pytest.raises(FencedError):
        take_over(output, dict(FINGERPRINT) | {"points_per_side": 8})
    assert json.loads(read_header(output, {}).metadata["fingerprint"]) == FINGERPRINT
    first.commit([])  # still in charge


def test_a_resume_with_other_settings_names_each_of_them_and_changes_nothing(output):
    first = take_over(output)
    first.commit([shard(output, ROWS[:1])])
    version = DeltaTable(f"{output}/masks").version()
    other = {"points_per_side": 16, "weights_sha256": "aa", "schema_version": 1, "max_pixels": 5}
    with pytest.raises(FingerprintMismatchError) as caught:
        take_over(output, other)
    assert caught.value.differences == {"points_per_side": (32, 16), "max_pixels": (1_000_000, 5)}
    assert "points_per_side: 32 in the output, 16 now" in str(caught.value)
    assert "max_pixels: 1000000 in the output, 5 now" in str(caught.value)
    assert "weights_sha256" not in str(caught.value)
    assert DeltaTable(f"{output}/masks").version() == version
    first.commit([shard(output, ROWS[1:])])  # still in charge


@pytest.mark.parametrize("changed", FINGERPRINT)
def test_every_setting_of_the_fingerprint_counts(changed):
    check_fingerprint(FINGERPRINT, dict(FINGERPRINT))
    with pytest.raises(FingerprintMismatchError, match=changed):
        check_fingerprint(FINGERPRINT, FINGERPRINT | {changed: "other"})
    with pytest.raises(FingerprintMismatchError, match=changed):
        check_fingerprint(FINGERPRINT, {name: value for name, value in FINGERPRINT.items() if name != changed})


def test_the_fingerprint_and_the_configuration_are_stored_with_the_results(output):
    take_over(output)
    metadata = read_header(output, {}).metadata
    assert json.loads(metadata["fingerprint"]) == FINGERPRINT
    assert metadata["config"] == "{}"


def test_compaction_keeps_every_row_and_leaves_one_file(output):
    table = take_over(output)
    for part in ROWS:
        table.commit([shard(output, [part])])
    before = stored(output)
    assert len(files(output)) == 5
    table.compact()
    assert len(files(output)) == 1
    assert stored(output) == before
    assert table.committed_ids(5).all()
    table.compact()
    assert stored(output) == before


def test_readers_see_every_row_at_any_time_of_a_compaction(output, monkeypatch):
    monkeypatch.setattr(rewriting, "_COMPACTED_FILE_ROWS", 4)
    table = take_over(output)
    for index in range(24):
        table.commit([shard(output, [row(index)])])
    opened, commit, numbers = [open_results(output, {})], FencedTable.commit, []

    def commit_and_read(*arguments, **options):
        commit(*arguments, **options)
        numbers.append(len(files(output)))
        opened.append(open_results(output, {}))
        for snapshot in opened:  # whoever opened it before still has its files
            rows = read_results(snapshot, ["image_id"], None, {})
            assert sorted(rows["image_id"].to_pylist()) == [*range(24)]

    monkeypatch.setattr(FencedTable, "commit", commit_and_read)
    table.compact()
    assert numbers == [18, 12, 6]


@pytest.mark.parametrize("num_masks", [1, 3])
def test_small_files_are_merged_until_none_is_left_however_well_they_compress(output, monkeypatch, num_masks):
    """Of a file of one row most bytes are its frame."""
    table = take_over(output)
    table.commit([shard(output, [row(index, num_masks)]) for index in range(120)])
    sizes = [file.size_bytes for file in committed_files(open_results(output, {}))]
    size = sum(sizes) // 12
    monkeypatch.setattr(rewriting, "_COMPACTED_FILE_BYTES", size)
    table.compact()
    merged = [file.size_bytes for file in committed_files(open_results(output, {}))]
    assert len(merged) == 1 or min(merged) > size / 2
    assert sorted(each["image_id"] for each in stored(output)) == [*range(120)]


def test_compacting_an_empty_table_does_nothing(output):
    take_over(output).compact()
    assert stored(output) == []


def test_a_start_that_was_superseded_cannot_compact(output):
    first = take_over(output)
    for part in ROWS:
        first.commit([shard(output, [part])])
    take_over(output)
    with pytest.raises(FencedError):
        first.compact()
    assert len(files(output)) == 5


def test_commits_go_on_after_a_compaction(output):
    table = take_over(output)
    for part in ROWS[:4]:
        table.commit([shard(output, [part])])
    table.compact()
    table.commit([shard(output, ROWS[4:])])
    assert stored(output) == as_stored(ROWS)


def test_a_start_that_compacted_is_fenced_by_a_later_one(output):
    first = take_over(output)
    for part in ROWS[:2]:
        first.commit([shard(output, [part])])
    first.compact()
    take_over(output)
    with pytest.raises(FencedError):
        first.commit([shard(output, ROWS[2:])])


def test_the_state_counts_images_by_status_and_masks_and_commits(output):
    finished(output, ROWS)
    state = read_state(output, {})
    assert state.num_by_status == {"ok": 4, "decode_error": 1}
    assert state.num_masks == 6
    assert [count for _, count in state.commits] == [3, 2]
    assert state.commits[0][0] <= state.commits[1][0]


def test_compaction_and_new_starts_are_no_commits_of_images(output):
    table = finished(output, ROWS)
    table.compact()
    take_over(output)
    assert [count for _, count in read_state(output, {}).commits] == [3, 2]


def test_where_no_run_started_there_is_no_state_and_no_rows(output):
    assert read_state(output, {}) is None
    with pytest.raises(OutputError, match="no results in"):
        open_results(output, {})


@pytest.mark.parametrize(
    ("commits", "rate"),
    [
        ([], None),
        ([(100.0, 5)], None),
        ([(100.0, 5), (110.0, 20)], 2.0),
        ([(100.0, 5), (110.0, 20), (120.0, 40)], 3.0),
        ([(100.0, 5), (100.0, 20)], None),
        ([(0.0, 5), (10_000.0, 5), (10_010.0, 30)], 3.0),  # the pause belongs to no period
        ([(0.0, 9), (10_000.0, 30)], None),
        ([(float(second), 1) for second in range(0, 200)] + [(200.0, 1)], 1.0),
    ],
)
def test_the_rate_is_that_of_the_last_working_period(commits, rate):
    assert RunState(Counter(), 0, commits).recent_rate() == rate


def test_of_many_commits_only_the_last_ones_make_the_rate():
    slow = [(float(10 * index), 1) for index in range(100)]
    fast = [(1000.0 + index, 10) for index in range(60)]
    assert RunState(Counter(), 0, slow + fast).recent_rate() == 10.0


def test_the_result_opens_in_polars(output):
    finished(output, ROWS)
    frame = pl.scan_delta(f"{output}/masks").filter(pl.col("status") == "ok").sort("image_id").collect()
    assert frame["num_masks"].to_list() == [2, 0, 3, 1]
    areas = frame.explode("masks").drop_nulls("masks").select(pl.col("masks").struct.field("area"))["area"]
    assert areas.to_list() == [mask["area"] for row in ROWS for mask in row["masks"]]


def test_the_result_opens_in_duckdb(output):
    finished(output, ROWS)
    dataset = DeltaTable(f"{output}/masks").to_pyarrow_dataset()
    with duckdb.connect() as connection:
        connection.register("results", dataset)
        counts = connection.sql("select status, count(*), sum(num_masks) from results group by 1 order by 1").fetchall()
        areas = connection.sql("select m.area from (select unnest(masks) as m from results) order by 1").fetchall()
    assert counts == [("decode_error", 1, 0), ("ok", 4, 6)]
    assert [area for (area,) in areas] == sorted(mask["area"] for row in ROWS for mask in row["masks"])


def test_the_result_opens_in_pandas(output):
    finished(output, ROWS)
    frame = DeltaTable(f"{output}/masks").to_pandas().sort_values("image_id")
    assert frame["status"].tolist() == ["ok", "ok", "decode_error", "ok", "ok"]
    assert pd.isna(frame["height"].iloc[2])


@pytest.mark.parametrize(
    ("column", "is_wanted", "condition"),
    [
        ("status", lambda value: value == "ok", "status = 'ok'"),
        ("num_masks", lambda value: value > 1, "num_masks > 1"),
        ("error", lambda value: value is not None, "error is not null"),
        ("height", lambda value: value is None, "height is null"),
        ("image_id", lambda value: value >= 3, "image_id >= 3"),
    ],
)
def test_a_condition_on_any_column_finds_its_rows(output, column, is_wanted, condition):
    table = finished(output, ROWS)
    expected = [row["image_id"] for row in ROWS if is_wanted(row[column])]
    for rewrite in (lambda: None, table.compact, lambda: table.delete_images(np.array([4]))):
        rewrite()
        expected = [image_id for image_id in expected if image_id in {row["image_id"] for row in stored(output)}]
        results = DeltaTable(f"{output}/masks").to_pyarrow_dataset()
        with duckdb.connect() as connection:
            connection.register("results", results)
            found = connection.sql(f"select image_id from results where {condition} order by 1").fetchall()
        assert [image_id for (image_id,) in found] == expected
        frame = pl.scan_delta(f"{output}/masks").filter(pl.sql_expr(condition)).collect()
        assert sorted(frame["image_id"].to_list()) == expected


# pycocotools builds its arrays the way NumPy 1 wanted it; until it does otherwise, decoding warns.
def test_pycocotools_decodes_a_mask_as_read(output):
    finished(output, ROWS)
    for stored_row in stored(output):
        for mask in stored_row["masks"]:
            assert coco_mask.decode(mask["segmentation"]).sum() == mask["area"]


def test_an_output_that_cannot_be_written_is_an_output_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot use output"):
        take_over(str(tmp_path / "file"))


def test_a_delta_table_of_another_program_is_left_alone(output):
    DeltaTable.create(f"{output}/masks", MASKS_SCHEMA)
    with pytest.raises(OutputError, match="a Delta table of another program"):
        take_over(output)
    assert DeltaTable(f"{output}/masks").version() == 0


def test_the_header_is_read_from_the_log_alone(output):
    finished(output, ROWS)
    for path in Path(output, "masks").glob("*.parquet"):
        path.unlink()
    header = read_header(output, {})
    assert header.num_images == 5
    assert json.loads(header.metadata["fingerprint"]) == FINGERPRINT


def test_where_no_run_started_there_is_no_header(output):
    assert read_header(output, {}) is None


def test_a_compaction_after_that_of_a_later_start_is_refused(output):
    first = take_over(output)
    for part in ROWS:
        first.commit([shard(output, [part])])
    take_over(output).compact()
    with pytest.raises(FencedError):
        first.compact()
    assert stored(output) == as_stored(ROWS)


def test_a_compaction_that_is_killed_keeps_the_groups_it_has_committed(output, monkeypatch):
    table = take_over(output)
    for part in ROWS[:4]:
        table.commit([shard(output, [part])])
    monkeypatch.setattr(rewriting, "_COMPACTED_FILE_ROWS", 2)
    monkeypatch.setattr(rewriting, "_FILES_AT_ONCE", 1)
    with monkeypatch.context() as patch:
        put, left = FencedTable.put, [1]

        def put_one(*arguments, **options):
            left.pop()
            return put(*arguments, **options)

        patch.setattr(FencedTable, "put", put_one)
        with pytest.raises(IndexError):
            table.compact()
    assert len(files(output)) == 3
    assert stored(output) == as_stored(ROWS[:4])
    take_over(output).compact()
    assert len(files(output)) == 2
    assert stored(output) == as_stored(ROWS[:4])


@pytest.mark.parametrize(
    ("sizes", "groups"),
    [
        ([], []),
        ([10], []),
        ([10, 10], [[0, 1]]),
        ([51, 50, 51, 10], [[1, 3]]),  # what is over half the size stays
        ([52, 10, 51, 10], [[2, 1, 3]]),  # unless too little is left for a file
        ([40, 40, 40, 40], [[0, 1], [2, 3]]),
        ([40, 40, 40], [[0, 1, 2]]),
        ([150, 10], [[0, 1]]),
        ([151, 10], []),
        ([50, 50, 50, 1], [[0, 1], [2, 3]]),
    ],
)
@pytest.mark.parametrize("by", ["bytes", "rows"])
def test_small_neighbours_are_merged_up_to_a_size(sizes, groups, by, monkeypatch):
    monkeypatch.setattr(rewriting, f"_COMPACTED_FILE_{by.upper()}", 100)
    files = [
        DataFile(str(index), size if by == "bytes" else 1, size if by == "rows" else 1, index, index)
        for index, size in enumerate(sizes)
    ]
    merged = rewriting._mergeable(list(reversed(files)))
    assert [[int(file.path) for file in group] for group in merged] == groups


def test_rows_are_deleted_by_status_and_their_images_are_pending_again(output):
    finished(output, [*ROWS, failed_row(5, "changed"), failed_row(6)])
    assert delete_rows(output, ["decode_error", "changed"], {}) == 3
    assert stored(output) == as_stored([row for row in ROWS if row["status"] == "ok"])
    assert DeltaTable(f"{output}/masks").to_pyarrow_table().schema.equals(MASKS_SCHEMA)
    table = take_over(output)
    assert np.flatnonzero(~table.committed_ids(7)).tolist() == [2, 5, 6]
    table.commit([shard(output, [row(2), row(5), row(6)])])
    table.compact()
    assert [row["image_id"] for row in stored(output)] == list(range(7))


def test_ok_rows_can_be_deleted_too_and_a_status_named_twice_counts_once(output):
    finished(output, ROWS)
    assert delete_rows(output, ["ok", "ok"], {}) == 4
    assert stored(output) == as_stored([ROWS[2]])


def test_where_no_row_has_the_status_nothing_is_deleted(output):
    finished(output, ROWS)
    assert delete_rows(output, ["changed"], {}) == 0
    assert stored(output) == as_stored(ROWS)


def test_deleting_rows_fences_a_run_in_progress(output):
    running = finished(output, ROWS, num_images=6)
    delete_rows(output, ["decode_error"], {})
    with pytest.raises(FencedError):
        running.commit([shard(output, [row(5)])])


@pytest.mark.parametrize(
    "error",
    [
        OSError("Generic S3 error: HTTP error: error sending request"),
        CommitFailedError("Failed to commit transaction: Concurrent transaction failed."),
    ],
)
def test_a_deletion_whose_answer_was_lost_is_counted(output, monkeypatch, clock, error):
    finished(output, ROWS)
    table = MaskTable.stop_runs(output, {})
    commit = DeltaTable.create_write_transaction

    def commit_and_fail(*arguments, **options):
        monkeypatch.setattr(DeltaTable, "create_write_transaction", commit)
        commit(*arguments, **options)
        raise error

    monkeypatch.setattr(DeltaTable, "create_write_transaction", commit_and_fail)
    assert table.delete(["decode_error"]) == 1
    assert len(stored(output)) == 4


def test_a_deletion_is_fenced_by_a_later_start(output):
    finished(output, ROWS)
    table = MaskTable.stop_runs(output, {})
    take_over(output)
    with pytest.raises(FencedError):
        table.delete(["decode_error"])
    assert stored(output) == as_stored(ROWS)


def test_a_million_images_are_deleted_at_once(output):
    table = finished(output, ROWS)
    assert table.delete_images(np.arange(1, 1_000_000)[::-1]) == 4
    assert stored(output) == as_stored(ROWS[:1])
    assert table.delete_images(np.arange(1, 1_000_000)) == 0


def test_files_without_any_of_the_rows_to_delete_stay_as_they_are(output):
    table = finished(output, ROWS)
    before = set(files(output))
    version = DeltaTable(f"{output}/masks").version()
    assert table.delete_images(np.array([4, 9])) == 1
    assert len(before & set(files(output))) == 1
    assert table.delete_images(np.array([9, -1, 4])) == 0
    assert DeltaTable(f"{output}/masks").version() == version + 1


def test_a_deletion_that_is_killed_keeps_what_it_has_committed_and_goes_on_when_it_is_repeated(output, monkeypatch):
    monkeypatch.setattr(rewriting, "_DELETIONS_PER_COMMIT", 1)
    table = finished(output, ROWS)
    real, left = FencedTable.commit, [1]

    def commit_one(*arguments, **options):
        left.pop()
        return real(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(FencedTable, "commit", commit_one)
        with pytest.raises(IndexError):
            table.delete(["ok"])
    assert len(stored(output)) == 3
    assert delete_rows(output, ["ok"], {}) == 2
    assert stored(output) == as_stored([ROWS[2]])


def test_rows_of_images_that_were_added_since_the_plan_was_read_are_none_of_its(output):
    table = finished(output, ROWS)
    assert table.committed_ids(2).tolist() == [True, True]


def test_an_unknown_status_is_refused_with_those_that_there_are(output):
    running = finished(output, ROWS)
    with pytest.raises(ConfigError, match=r"status must be some of ok, fetch_error, .*worker_crashed; got ok, failed"):
        delete_rows(output, ["ok", "failed"], {})
    running.commit([shard(output, [row(5)])])  # nobody was disturbed


def test_where_no_run_started_there_is_nothing_to_delete_from(output):
    with pytest.raises(OutputError, match="no results in"):
        delete_rows(output, ["ok"], {})
    DeltaTable.create(f"{output}/masks", MASKS_SCHEMA)
    with pytest.raises(OutputError, match="a Delta table of another program"):
        delete_rows(output, ["ok"], {})


def test_the_commits_of_a_long_run_are_not_all_read(output, monkeypatch):
    monkeypatch.setattr(watching, "_RATE_ENTRIES", 3)
    table = take_over(output)
    for image_id in range(6):
        table.commit([shard(output, [row(image_id, 0)] * (image_id + 1))])
    assert [count for _, count in read_state(output, {}).commits] == [4, 5, 6]
