import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError, DeltaError

from sam_pipeline.errors import FencedError, OutputError
from sam_pipeline.storage import delta
from sam_pipeline.storage.delta import (
    commit_files,
    create_table,
    open_table,
    output_errors,
    put_parquet,
    table_metadata,
)

SCHEMA = pa.schema([pa.field("image_id", pa.int64(), nullable=False), pa.field("name", pa.string())])


def rows(*ids):
    return pa.table({"image_id": pa.array(ids, pa.int64()), "name": [f"n{i}" for i in ids]}, schema=SCHEMA)


@pytest.fixture
def uri(tmp_path):
    return str(tmp_path / "table")


def put(uri, *ids):
    return put_parquet(uri, rows(*ids), {}, row_group_size=2)


def visible_ids(uri):
    return sorted(DeltaTable(uri).to_pyarrow_table()["image_id"].to_pylist())


def test_where_there_is_no_table_none_is_opened(uri):
    assert open_table(uri, {}) is None


def test_a_new_table_is_empty_and_carries_its_metadata(uri):
    create_table(uri, SCHEMA, {"fingerprint": '{"a": 1}', "input": "s3://b"}, {})
    table = open_table(uri, {})
    assert table_metadata(table) == {"fingerprint": '{"a": 1}', "input": "s3://b"}
    assert table.count() == 0


def test_who_loses_the_race_to_create_a_table_opens_the_winners_and_changes_nothing(uri):
    create_table(uri, SCHEMA, {"input": "winner"}, {})
    table = create_table(uri, SCHEMA, {"input": "loser"}, {})
    assert table_metadata(table) == {"input": "winner"}
    assert table.version() == 0


def test_a_file_is_described_without_reading_it(uri, tmp_path):
    create_table(uri, SCHEMA, {"input": "x"}, {})
    file = put(uri, 7, 3, 5)
    path = tmp_path / "table" / file.path
    assert (file.num_rows, file.min_image_id, file.max_image_id) == (3, 3, 7)
    assert file.size_bytes == path.stat().st_size
    assert pq.read_table(path).equals(rows(7, 3, 5))
    assert pq.ParquetFile(path).num_row_groups == 2


def test_two_attempts_at_the_same_rows_have_two_names(uri):
    create_table(uri, SCHEMA, {"input": "x"}, {})
    assert put(uri, 1).path != put(uri, 1).path


def test_a_file_is_invisible_until_it_is_committed(uri):
    table = create_table(uri, SCHEMA, {"input": "x"}, {})
    file = put(uri, 1, 2)
    assert visible_ids(uri) == []
    commit_files(table, SCHEMA, [file], epoch=1)
    assert visible_ids(uri) == [1, 2]


def test_commits_of_one_writer_follow_one_another_and_keep_their_metadata(uri):
    table = create_table(uri, SCHEMA, {"input": "x"}, {})
    commit_files(table, SCHEMA, [put(uri, 1), put(uri, 2)], epoch=1, custom_metadata={"num_images": "2"})
    commit_files(table, SCHEMA, [put(uri, 3)], epoch=1, custom_metadata={"num_images": "1"})
    assert visible_ids(uri) == [1, 2, 3]
    assert [entry["num_images"] for entry in DeltaTable(uri).history()[:2]] == ["1", "2"]


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_writer_whose_snapshot_is_behind_is_fenced_and_its_file_stays_invisible(uri, epoch):
    old = create_table(uri, SCHEMA, {"input": "x"}, {})
    new = open_table(uri, {})
    commit_files(new, SCHEMA, [put(uri, 1)], epoch=1)
    with pytest.raises(FencedError, match="another run took over") as caught:
        commit_files(old, SCHEMA, [put(uri, 2)], epoch=epoch)
    assert caught.value.exit_code == 3
    with pytest.raises(FencedError):  # for good: it must not have moved its snapshot
        commit_files(old, SCHEMA, [put(uri, 2)], epoch=epoch)
    commit_files(new, SCHEMA, [put(uri, 3)], epoch=1)
    assert visible_ids(uri) == [1, 3]


def test_a_file_that_is_no_folder_is_an_output_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot use output"):
        create_table(str(tmp_path / "file"), SCHEMA, {"input": "x"}, {})


def test_putting_into_a_folder_that_is_gone_is_an_output_error(uri):
    with pytest.raises(OutputError, match="cannot use output"):
        put(uri, 1)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (CommitFailedError("Transaction failed: Concurrent transaction failed: x"), FencedError),
        (CommitFailedError("no space left\non device"), OutputError),
        (DeltaError("Generic S3 error: 403 https://h/b?X-Amz-Signature=abc\nmore"), OutputError),
        (PermissionError("read-only"), OutputError),
    ],
)
def test_storage_failures_become_errors_of_one_line_without_credentials(error, expected):
    with pytest.raises(expected) as caught, output_errors("s3://b/run"):
        raise error
    assert "s3://b/run" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "abc" not in str(caught.value)
    assert caught.value.__cause__ is error


def test_a_table_of_another_program_is_an_output_error(uri):
    table = DeltaTable.create(uri, SCHEMA, configuration={"delta.appendOnly": "true"})
    with pytest.raises(OutputError, match="a Delta table of another program; use another output"):
        table_metadata(table)
    assert delta.METADATA_PREFIX == "sam_pipeline."
