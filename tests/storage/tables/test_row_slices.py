"""Rows in pieces of bounded size."""

import pyarrow as pa
import pyarrow.parquet as pq

from sam_pipeline.storage.tables import fenced_table
from sam_pipeline.storage.tables.row_slices import slices
from tests.storage.runs import plan, row, shard, take_over


def table(*sizes):
    return pa.table({"number": range(len(sizes)), "text": ["x" * size for size in sizes]})


def test_pieces_have_as_many_rows_as_are_wanted_unless_these_are_large():
    rows = table(*[10] * 10)
    assert [piece.num_rows for piece in slices(rows, 4, 10**6)] == [4, 4, 2]
    assert [piece.num_rows for piece in slices(rows, 4, 50)] == [2, 2, 2, 2, 2]
    assert not list(slices(rows.slice(0, 0), 4, 50))


def test_a_row_that_is_too_large_is_alone_and_no_row_is_lost():
    rows = table(0, 1000, 10, 10, 10, 10, 10, 10)
    pieces = list(slices(rows, 8, 200))
    assert [piece.num_rows for piece in pieces] == [1, 1, 2, 4]
    assert pa.concat_tables(pieces).equals(rows)


def test_row_groups_of_results_are_bounded_by_their_bytes(tmp_path, monkeypatch):
    """A reader holds one whole, and an image may have thousands of masks."""
    output = str(tmp_path)
    plan(output, 8)
    results = take_over(output)
    rows = [row(number, 500 if number == 5 else 1) for number in range(8)]
    monkeypatch.setattr(fenced_table, "_ROW_GROUP_BYTES", 10_000)
    results.commit([shard(output, rows)])
    (path,) = tmp_path.glob("masks/*.parquet")
    metadata = pq.read_metadata(path)
    assert [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)] == [4, 1, 1, 2]
