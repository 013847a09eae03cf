import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sam_pipeline.storage.objects import bounded_parquet as module
from sam_pipeline.storage.objects.bounded_parquet import bounded_parquet, column_batches


def written(table, **options):
    file = io.BytesIO()
    pq.write_table(table, file, **options)
    return file


def read(file, columns, batch_rows=7):
    batches = list(column_batches(file, dict.fromkeys(columns, 100), batch_rows, 1 << 20))
    assert max(batch.num_rows for batch in batches) <= batch_rows
    return pa.Table.from_batches(batches).to_pydict()


TABLE = pa.table(
    {
        "text": ["a", None, "bb", "a", ""] * 20,
        "large": pa.array(["x", "y", "y", None, "x"] * 20, pa.large_string()),
        "bytes": [b"1", b"1", None, b"", b"2"] * 20,
        "number": list(range(100)),
        "list": [["a", "a"], [], None, ["b"], ["a"]] * 20,
        "struct": [{"path": "a", "n": 1}, None, {"path": None, "n": 2}, {"path": "a", "n": 3}, {"path": "b", "n": 4}]
        * 20,
    }
)


@pytest.mark.parametrize("group_bytes", [0, 2**29])
@pytest.mark.parametrize("batch_bytes", [0, 50, 2**26])
@pytest.mark.parametrize("options", [{}, {"use_dictionary": False}, {"row_group_size": 13}])
def test_values_are_what_pyarrow_reads_whatever_may_be_held(monkeypatch, group_bytes, batch_bytes, options):
    monkeypatch.setattr(module, "_GROUP_BYTES", group_bytes)
    monkeypatch.setattr(module, "_BATCH_BYTES", batch_bytes)
    file = written(TABLE, **options)
    for columns in (["text"], ["number", "large"], ["bytes", "text"], ["list"], ["struct", "text"]):
        assert read(file, columns) == TABLE.select(columns).to_pydict()


def test_rows_that_share_a_value_come_in_small_batches(monkeypatch):
    monkeypatch.setattr(module, "_BATCH_BYTES", 300)
    file = written(pa.table({"text": ["x" * 90] * 1000}))
    assert {batch.num_rows for batch in column_batches(file, {"text": 100}, 512, 1 << 20)} <= {2, 3}


@pytest.mark.parametrize("use_dictionary", [True, False])
def test_texts_are_cut_at_what_is_wanted(use_dictionary):
    file = written(pa.table({"text": ["ä" * 500, "short", None]}), use_dictionary=use_dictionary)
    assert read(file, ["text"])["text"] == ["ä" * 100, "short", None]


def test_a_footer_or_page_beyond_its_limit_is_refused(monkeypatch):
    file = written(pa.table({f"column {number}": [0] for number in range(2000)}))
    monkeypatch.setattr(module, "_MAX_FOOTER_BYTES", 70_000)
    with pytest.raises(ValueError, match=r"a footer of \d+ bytes, the limit is 70000"):
        bounded_parquet(file, 1 << 20)
    monkeypatch.undo()
    monkeypatch.setattr(module, "_MAX_PAGE_BYTES", 50_000)
    file = written(pa.table({"text": ["x" * 100_000]}), compression="none")
    with pytest.raises(ValueError, match=r"a page of \d+ bytes, the limit is 50000"):
        read(file, ["text"])
