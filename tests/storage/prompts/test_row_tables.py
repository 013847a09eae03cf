import pyarrow as pa
import pytest

from sam_pipeline.storage.prompts import row_tables as module
from sam_pipeline.storage.prompts.prompt_rows import KEYED_PROMPTS
from sam_pipeline.storage.prompts.row_tables import row_tables


def rows(count, mask_input=None):
    for prompt_id in range(count):
        named = {"key": "a", "is_image_id": False, "prompt_id": prompt_id}
        yield named | {"is_relative": False, "mask_input": mask_input}


@pytest.mark.parametrize(
    ("count", "mask_input", "sizes"),
    [(0, None, []), (5, None, [5]), (10, None, [5, 5]), (11, None, [5, 5, 1]), (5, b"1234", [2, 2, 1])],
)
def test_tables_have_so_many_rows_and_fewer_with_masks(monkeypatch, count, mask_input, sizes):
    monkeypatch.setattr(module, "TABLE_ROWS", 5)
    monkeypatch.setattr(module, "MASKS_AT_ONCE", 2)
    tables = list(row_tables(rows(count, mask_input)))
    assert [table.num_rows for table in tables] == sizes
    assert all(table.schema == KEYED_PROMPTS for table in tables)
    numbers = pa.concat_tables([KEYED_PROMPTS.empty_table(), *tables])["prompt_id"]
    assert numbers.to_pylist() == list(range(count))
