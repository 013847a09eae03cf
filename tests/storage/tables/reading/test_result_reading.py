import threading

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from sam_pipeline.errors import ConfigError, OutputError, StorageUnavailableError
from sam_pipeline.storage.maintenance.status import count_results
from sam_pipeline.storage.tables import delta
from sam_pipeline.storage.tables.reading import result_reading, table_reading
from sam_pipeline.storage.tables.reading.result_reading import (
    check_condition,
    iterate_results,
    iterate_row_groups,
    read_results,
    results_schema,
)
from sam_pipeline.storage.tables.results import open_results
from sam_pipeline.storage.tables.schema import MASKS_SCHEMA
from tests.storage.runs import FLOAT_FIELDS, failed_row, finished, plan, row, shard, take_over

ROWS = [row(0), row(1, 0), failed_row(2), row(3, 3), row(4, 1)]
ALL = MASKS_SCHEMA.names


@pytest.fixture
def output(tmp_path):
    return str(tmp_path)


@pytest.fixture
def read_columns_of_groups(monkeypatch):
    """The columns that each read of a row group asks for."""
    asked = []
    read = result_reading.RowGroup.read

    def read_group(group, columns):
        asked.append(list(columns))
        return read(group, columns)

    monkeypatch.setattr(result_reading.RowGroup, "read", read_group)
    return asked


def read(output, columns=ALL, where=None):
    return read_results(open_results(output, {}), columns, where, {}).to_pylist()


def test_rows_are_read_as_they_were_stored(output):
    finished(output, ROWS)
    assert read(output) == [row | {"masks": [mask | FLOAT_FIELDS for mask in row["masks"]]} for row in ROWS]


def test_every_row_group_is_a_table_in_the_order_of_images(output):
    finished(output, ROWS)
    tables = list(iterate_results(open_results(output, {}), ["image_id"], None, {}))
    assert [table["image_id"].to_pylist() for table in tables] == [[0, 1, 2], [3, 4]]


CONDITIONS = [
    (pc.field("status") == "ok", [0, 1, 3, 4]),
    (pc.field("uri") != "file:///in/0001.jpg", [0, 2, 3, 4]),
    (pc.field("height").is_null(), [2]),
    (pc.field("error").is_valid(), [2]),
    (pc.field("num_masks") > 1, [0, 3]),
    (pc.list_value_length(pc.field("masks")) > 1, [0, 3]),
]


@pytest.mark.parametrize(("where", "expected"), CONDITIONS)
@pytest.mark.parametrize("with_masks", [False, True])
def test_conditions_find_their_rows(output, where, expected, with_masks):
    finished(output, ROWS)
    rows = read(output, ["masks", "image_id"] if with_masks else ["image_id"], where)
    assert [row["image_id"] for row in rows] == expected
    if with_masks:
        assert [len(row["masks"]) for row in rows] == [len(ROWS[image_id]["masks"]) for image_id in expected]


@pytest.mark.parametrize(("where", "expected"), CONDITIONS)
def test_conditions_find_their_rows_in_what_delta_rs_has_rewritten_and_described(output, where, expected, monkeypatch):
    monkeypatch.setattr(delta, "_PROPERTIES", {})
    finished(output, ROWS)
    DeltaTable(f"{output}/masks").delete("image_id = 4")  # as `retry` did once
    assert any("string_view" in str(pq.read_schema(path)) for path in (open_results(output, {})).file_uris())
    assert [row["image_id"] for row in read(output, ["image_id"], where)] == [id_ for id_ in expected if id_ != 4]
    assert read_results(open_results(output, {}), ALL, None, {}).schema.equals(MASKS_SCHEMA)


def test_masks_are_read_only_where_a_row_is_wanted(output, read_columns_of_groups):
    finished(output, ROWS)
    assert [row["image_id"] for row in read(output, ALL, pc.field("image_id") == 4)] == [4]
    assert ["masks" in columns for columns in read_columns_of_groups] == [False, False, True]
    del read_columns_of_groups[:]
    read(output, ["uri"], pc.field("status") == "ok")
    read(output, ["uri"])
    assert not any("masks" in columns for columns in read_columns_of_groups)


def test_a_condition_that_does_not_fit_is_refused(output):
    finished(output, ROWS)
    schema = results_schema(open_results(output, {}))
    assert schema.equals(MASKS_SCHEMA)
    check_condition(pc.list_value_length(pc.field("masks")) > 1, schema)
    for where in (pc.field("nope") == 1, pc.field("status") == 1):
        with pytest.raises(ConfigError, match="where does not fit the columns"):
            check_condition(where, schema)


def test_what_may_pass_is_tried_again_and_what_will_not_is_an_output_error(output, monkeypatch, clock):
    finished(output, ROWS)
    read_row_group, errors = pq.ParquetFile.read_row_group, [ConnectionResetError("reset"), TimeoutError("late")]

    def fail_at_first(self, *arguments, **options):
        if errors:
            raise errors.pop()
        return read_row_group(self, *arguments, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", fail_at_first)
    assert len(read(output)) == 5
    errors.append(pa.ArrowInvalid("not a Parquet file"))
    with pytest.raises(OutputError, match=r"cannot use output .*\.parquet: not a Parquet file"):
        read(output)
    errors.extend([TimeoutError("late")] * 1000)
    with pytest.raises(StorageUnavailableError, match="storage did not answer"):
        read(output)


class WatchedFile:
    """A file that notes whether a thread of Python reads it, or one of Arrow."""

    def __init__(self, file, is_python):
        self._file, self._is_python = file, is_python

    def __getattr__(self, name):
        if name in ("read", "read_buffer"):
            self._is_python.append(threading.get_ident() in [thread.ident for thread in threading.enumerate()])
        return getattr(self._file, name)


@pytest.mark.parametrize(
    ("use", "is_of_python"),
    [
        (lambda table: read_results(table, ALL, None, {}), True),
        (lambda table: read_results(table, ALL, pc.field("num_masks") > 1, {}), True),
        (lambda table: count_results(table, {}), True),
        (lambda table: list(table_reading.read_columns(table, ALL, {})), False),  # lest the test see nothing
    ],
)
def test_no_thread_of_arrow_reads_what_a_process_may_end_with(output, monkeypatch, use, is_of_python):
    is_python = []

    class WatchingHandler(table_reading.DeltaStorageHandler):
        def open_input_file(self, path):
            return pa.PythonFile(WatchedFile(super().open_input_file(path), is_python), mode="r")

    finished(output, ROWS)
    monkeypatch.setattr(table_reading, "DeltaStorageHandler", WatchingHandler)
    use(open_results(output, {}))
    assert len(is_python) > 2
    assert all(is_python) == is_of_python


@pytest.mark.parametrize("rows_in_piece", [1, 2, 3])
def test_a_very_large_row_group_is_read_in_pieces(output, monkeypatch, clock, rows_in_piece):
    """delta-rs makes row groups of a million rows; what may pass is tried again, and pieces may be passed over."""
    rows = [row(number, number % 3) for number in range(7)]
    plan(output, 7)
    take_over(output).commit([shard(output, rows)])
    (group,) = iterate_row_groups(open_results(output, {}), {})
    whole = group.read(ALL)
    assert list(group.pieces()) == [group]
    monkeypatch.setattr(result_reading, "_PIECE_BYTES", rows_in_piece * group.num_bytes // 7 + 1)
    pieces = list(group.pieces())
    assert [piece.num_rows for piece in pieces] == {1: [1] * 7, 2: [2, 2, 2, 1], 3: [3, 3, 1]}[rows_in_piece]
    assert pa.concat_tables(piece.read(ALL) for piece in pieces).equals(whole)
    assert (
        pieces[2].read(["uri"], ["area"]).equals(group.read(["uri"], ["area"]).slice(2 * rows_in_piece, rows_in_piece))
    )
    iter_batches, errors = pq.ParquetFile.iter_batches, [TimeoutError("late")]

    def fail_in_the_middle(self, *arguments, **options):
        for number, batch in enumerate(iter_batches(self, *arguments, **options)):
            if number == 1 and errors:
                raise errors.pop()
            yield batch

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", fail_in_the_middle)
    assert pa.concat_tables(piece.read(["masks"]) for piece in group.pieces()).equals(whole.select(["masks"]))
    assert not errors
