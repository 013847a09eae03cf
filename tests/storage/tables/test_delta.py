import errno
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError, DeltaError
from fsspec.implementations.local import LocalFileSystem

from sam_pipeline.errors import FencedError, OutputError, StorageUnavailableError
from sam_pipeline.storage.tables import delta, fenced_table
from sam_pipeline.storage.tables.delta import (
    committed_files,
    create_table,
    open_table,
    output_errors,
    table_metadata,
)
from sam_pipeline.storage.tables.delta_place import Table
from sam_pipeline.storage.tables.fenced_table import FencedTable, put_parquet

SCHEMA = pa.schema([pa.field("image_id", pa.int64(), nullable=False), pa.field("name", pa.string())])


def rows(*ids):
    return pa.table({"image_id": pa.array(ids, pa.int64()), "name": [f"n{i}" for i in ids]}, schema=SCHEMA)


@pytest.fixture
def uri(tmp_path):
    return str(tmp_path / "table")


def put(uri, *ids):
    return put_parquet(uri, rows(*ids), {}, row_group_size=2, table_id="none")


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
    FencedTable(table, SCHEMA).commit([file], epoch=1)
    assert visible_ids(uri) == [1, 2]


def test_commits_of_one_writer_follow_one_another_and_keep_their_metadata(uri):
    table = create_table(uri, SCHEMA, {"input": "x"}, {})
    FencedTable(table, SCHEMA).commit([put(uri, 1), put(uri, 2)], epoch=1, custom_metadata={"num_images": "2"})
    FencedTable(table, SCHEMA).commit([put(uri, 3)], epoch=1, custom_metadata={"num_images": "1"})
    assert visible_ids(uri) == [1, 2, 3]
    assert [entry["num_images"] for entry in DeltaTable(uri).history()[:2]] == ["1", "2"]


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_writer_whose_snapshot_is_behind_is_fenced_and_its_file_stays_invisible(uri, epoch):
    old = create_table(uri, SCHEMA, {"input": "x"}, {})
    new = open_table(uri, {})
    FencedTable(new, SCHEMA).commit([put(uri, 1)], epoch=1)
    with pytest.raises(FencedError, match="another run took over") as caught:
        FencedTable(old, SCHEMA).commit([put(uri, 2)], epoch=epoch)
    assert caught.value.exit_code == 3
    with pytest.raises(FencedError):  # for good: it must not have moved its snapshot
        FencedTable(old, SCHEMA).commit([put(uri, 2)], epoch=epoch)
    FencedTable(new, SCHEMA).commit([put(uri, 3)], epoch=1)
    assert visible_ids(uri) == [1, 3]


def test_a_file_that_is_no_folder_is_an_output_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot use output"):
        create_table(str(tmp_path / "file"), SCHEMA, {"input": "x"}, {})


def test_putting_into_a_folder_that_is_gone_is_an_output_error(uri):
    with pytest.raises(OutputError, match="cannot use output"):
        put(uri, 1)


@pytest.mark.parametrize(
    "error",
    [
        CommitFailedError("no space left\non device"),
        DeltaError("Generic S3 error: 403 https://h/b?X-Amz-Signature=abc\nmore"),
        PermissionError("read-only"),
    ],
)
def test_storage_failures_become_errors_of_one_line_without_credentials(error):
    with pytest.raises(OutputError) as caught, output_errors("s3://b/run"):
        raise error
    assert "s3://b/run" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "abc" not in str(caught.value)
    assert caught.value.__cause__ is error


def test_a_table_of_another_program_is_an_output_error(uri):
    DeltaTable.create(uri, SCHEMA, configuration={"delta.appendOnly": "true"})
    with pytest.raises(OutputError, match="a Delta table of another program; use another output"):
        table_metadata(Table(uri, {}))
    assert delta.METADATA_PREFIX == "sam_pipeline."


def transport_error():
    """In the words of object_store."""
    return OSError("Generic S3 error: Error performing PUT http://h/k: HTTP error: error sending request")


def conflict():
    return CommitFailedError("Failed to commit transaction: Concurrent transaction failed.")


def misreport(monkeypatch, name, *errors, then=lambda: None):
    """Let calls of a method of tables succeed and raise these errors all the same, one a call."""
    method, left = getattr(DeltaTable, name), list(errors)

    def call(self, *arguments, **options):
        result = method(self, *arguments, **options)
        if left:
            error = left.pop(0)
            then()
            raise error
        return result

    monkeypatch.setattr(DeltaTable, name, call)


def refuse(monkeypatch, name, *errors):
    """Let calls of a method of tables fail with these errors, one a call, without having done anything."""
    method, left = getattr(DeltaTable, name), list(errors)

    def call(self, *arguments, **options):
        if left:
            raise left.pop(0)
        return method(self, *arguments, **options)

    monkeypatch.setattr(DeltaTable, name, call)
    return left


@pytest.mark.parametrize("error", [transport_error(), conflict()])
def test_a_commit_whose_answer_was_lost_has_succeeded_and_is_not_made_again(uri, monkeypatch, clock, error):
    table = create_table(uri, SCHEMA, {"input": "x"}, {})
    misreport(monkeypatch, "create_write_transaction", error)
    FencedTable(table, SCHEMA).commit([put(uri, 1)], epoch=1)
    FencedTable(table, SCHEMA).commit([put(uri, 2)], epoch=1)
    assert visible_ids(uri) == [1, 2]
    assert table.version() == 2


@pytest.mark.parametrize("error", [transport_error(), conflict()])
def test_who_was_superseded_while_the_answer_was_lost_is_fenced(uri, monkeypatch, clock, error):
    table = create_table(uri, SCHEMA, {"input": "x"}, {})
    file = put(uri, 1)
    misreport(
        monkeypatch,
        "create_write_transaction",
        error,
        then=lambda: FencedTable(open_table(uri, {}), SCHEMA).commit([], epoch=2),
    )
    with pytest.raises(FencedError):
        FencedTable(table, SCHEMA).commit([file], epoch=1)
    assert visible_ids(uri) == [1]


def test_who_is_superseded_between_a_commit_and_the_look_at_the_log_is_fenced(uri, monkeypatch):
    table = create_table(uri, SCHEMA, {"input": "x"}, {})
    update = DeltaTable.update_incremental

    def update_after_a_take_over(self):
        monkeypatch.setattr(DeltaTable, "update_incremental", update)
        FencedTable(open_table(uri, {}), SCHEMA).commit([], epoch=2)
        update(self)

    monkeypatch.setattr(DeltaTable, "update_incremental", update_after_a_take_over)
    with pytest.raises(FencedError):
        FencedTable(table, SCHEMA).commit([put(uri, 1)], epoch=1)


def test_a_commit_that_never_arrived_is_made_again(uri, monkeypatch, clock):
    table = create_table(uri, SCHEMA, {"input": "x"}, {})
    refuse(monkeypatch, "create_write_transaction", transport_error(), transport_error())
    FencedTable(table, SCHEMA).commit([put(uri, 1)], epoch=1)
    assert visible_ids(uri) == [1]


def test_an_epoch_that_storage_did_not_tell_is_asked_for_again(uri, monkeypatch, clock):
    table = create_table(uri, SCHEMA, {"input": "x"}, {})
    assert FencedTable(table, SCHEMA).committed_epoch() is None
    left = refuse(
        monkeypatch, "transaction_version", DeltaError("Kernel error -> Generic S3 error: HTTP error: timed out")
    )
    FencedTable(table, SCHEMA).commit([put(uri, 1)], epoch=4)
    assert left == []
    assert FencedTable(table, SCHEMA).committed_epoch() == 4
    refuse(monkeypatch, "transaction_version", DeltaError("Kernel error: File not found"))
    with pytest.raises(OutputError, match="File not found"):
        FencedTable(table, SCHEMA).committed_epoch()


def test_who_was_superseded_between_two_attempts_is_fenced(uri, monkeypatch, clock):
    table, newer, file = create_table(uri, SCHEMA, {"input": "x"}, {}), open_table(uri, {}), put(uri, 1)
    refuse(monkeypatch, "create_write_transaction", transport_error())
    with monkeypatch.context() as patch:
        # The first attempt's look at the log comes when the other has committed.
        is_committed = fenced_table._is_committed

        def commit_meanwhile(*arguments, **options):
            patch.undo()
            FencedTable(newer, SCHEMA).commit([], epoch=2)
            return is_committed(*arguments, **options)

        patch.setattr(fenced_table, "_is_committed", commit_meanwhile)
        with pytest.raises(FencedError):
            FencedTable(table, SCHEMA).commit([file], epoch=1)
    assert visible_ids(uri) == []


def test_a_commit_that_is_refused_for_good_is_an_output_error_at_once(uri, monkeypatch, clock):
    table = create_table(uri, SCHEMA, {"input": "x"}, {})
    left = refuse(monkeypatch, "create_write_transaction", OSError(28, "No space left on device"), transport_error())
    with pytest.raises(OutputError, match="No space left"):
        FencedTable(table, SCHEMA).commit([put(uri, 1)], epoch=1)
    assert len(left) == 1


def test_a_commit_that_storage_never_answers_is_given_up_and_can_be_started_again(uri, monkeypatch, clock):
    table = create_table(uri, SCHEMA, {"input": "x"}, {})
    file = put(uri, 1)
    with monkeypatch.context() as patch:
        refuse(patch, "create_write_transaction", *[transport_error() for _ in range(1000)])
        with pytest.raises(StorageUnavailableError, match="the same command resumes"):
            FencedTable(table, SCHEMA).commit([file], epoch=1)
    FencedTable(open_table(uri, {}), SCHEMA).commit([file], epoch=2)
    assert visible_ids(uri) == [1]


def test_a_table_whose_creation_was_not_answered_is_opened(uri, monkeypatch, clock):
    create = DeltaTable.create

    def create_and_fail(*arguments, **options):
        create(*arguments, **options)
        raise transport_error()

    monkeypatch.setattr(DeltaTable, "create", create_and_fail)
    assert create_table(uri, SCHEMA, {"input": "x"}, {}).version() == 0


def test_a_put_that_was_not_answered_is_made_again_under_the_same_name(uri, monkeypatch, clock):
    create_table(uri, SCHEMA, {"input": "x"}, {})
    pipe_file, paths = LocalFileSystem.pipe_file, []

    def pipe_and_fail_once(self, path, content):
        pipe_file(self, path, content)
        paths.append(path)
        if len(paths) == 1:
            raise ConnectionResetError

    monkeypatch.setattr(LocalFileSystem, "pipe_file", pipe_and_fail_once)
    file = put(uri, 1, 2)
    assert [path.rsplit("/", 1)[1] for path in paths] == [file.path, file.path]


def test_files_that_replace_others_hold_their_rows_from_one_commit_on(uri):
    table = create_table(uri, SCHEMA, {"input": "x"}, {})
    FencedTable(table, SCHEMA).commit([put(uri, 1), put(uri, 2), put(uri, 3)], epoch=1)
    replaced = [file for file in committed_files(table) if file.min_image_id < 3]
    FencedTable(table, SCHEMA).commit([put(uri, 1, 2)], epoch=1, replaced=replaced)
    assert visible_ids(uri) == [1, 2, 3]
    assert sorted(file.num_rows for file in committed_files(table)) == [1, 2]


def test_a_file_that_a_full_disk_cut_is_not_left_there(tmp_path, monkeypatch):
    def cut(filesystem, path, content):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(content[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(LocalFileSystem, "pipe_file", cut)
    with pytest.raises(OutputError, match="No space left on device"):
        put_parquet(str(tmp_path / "table"), pa.table({"image_id": [0]}), {}, row_group_size=1, table_id="t")
    assert list((tmp_path / "table").iterdir()) == []
