import pyarrow as pa
import pytest

from sam_pipeline.errors import OutputError
from sam_pipeline.storage.tables.delta import create_table
from sam_pipeline.storage.tables.fenced_table import FencedTable
from sam_pipeline.storage.tables.reading import table_reading
from sam_pipeline.storage.tables.reading.table_reading import read_columns
from tests.storage.tables.test_delta import SCHEMA, put


@pytest.fixture
def uri(tmp_path):
    return str(tmp_path / "table")


def test_columns_are_read_of_every_file(uri, monkeypatch):
    monkeypatch.setattr(table_reading, "_FILES_AHEAD", 2)
    table = create_table(uri, SCHEMA, {"input": "x"}, {})
    assert list(read_columns(table, ["name"], {})) == []
    FencedTable(table, SCHEMA).commit([put(uri, 3 * index, 3 * index + 1) for index in range(5)], epoch=1)
    tables = list(read_columns(table, ["name"], {}))
    assert [table.column_names for table in tables] == [["name"]] * 5
    assert sorted(pa.concat_tables(tables)["name"].to_pylist()) == sorted(
        f"n{3 * i + j}" for i in range(5) for j in (0, 1)
    )


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"PAR1")])
def test_a_file_that_cannot_be_read_is_an_output_error_that_names_it(uri, tmp_path, damage):
    table = create_table(uri, SCHEMA, {"input": "x"}, {})
    file = put(uri, 1)
    FencedTable(table, SCHEMA).commit([file], epoch=1)
    damage(tmp_path / "table" / file.path)
    with pytest.raises(OutputError, match=file.path):
        list(read_columns(table, ["name"], {}))
