import pytest
from fsspec.implementations.local import LocalFileSystem

from sam_pipeline.storage.maintenance.unused_files import remove_files
from sam_pipeline.storage.tables.delta import create_table
from tests.storage.tables.test_delta import SCHEMA, put


@pytest.fixture
def uri(tmp_path):
    return str(tmp_path / "table")


def test_removing_a_file_that_is_gone_is_no_error(uri, tmp_path):
    create_table(uri, SCHEMA, {"input": "x"}, {})
    file = put(uri, 1)
    remove_files(uri, ["gone.parquet", file.path], {})
    assert list((tmp_path / "table").glob("*.parquet")) == []


def test_a_file_that_another_removes_at_the_same_time_is_no_error(uri, monkeypatch):
    create_table(uri, SCHEMA, {"input": "x"}, {})
    file = put(uri, 1)
    rm_file = LocalFileSystem.rm_file

    def rm_file_twice(self, path):
        rm_file(self, path)
        rm_file(self, path)

    monkeypatch.setattr(LocalFileSystem, "rm_file", rm_file_twice)
    remove_files(uri, [file.path], {})
