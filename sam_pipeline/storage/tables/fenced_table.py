"""Writing to a table: Parquet files are put, then committed behind a fence.

Delta's log gives atomic commits of many files by conditional PUT on S3, GCS, Azure and local disk. The fence is its
application transaction: a commit carries (app id, epoch), and it fails when another writer committed the same app id
after this writer's snapshot. Such a writer has been superseded and must stop; reloading and retrying would undo the
fence.

Only `FencedTable` writes to a table that exists. delta-rs's own optimize and vacuum bypass the fence, whatever they are
given, and two compactions from one snapshot leave every row twice (deltalake 1.6.6).
"""

from __future__ import annotations

import hashlib
import io
import json
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake.transaction import AddAction, CommitProperties, RemoveAction, Transaction

from sam_pipeline.errors import FencedError
from sam_pipeline.storage.layout import TableName, table_uri
from sam_pipeline.storage.objects.filesystem import StorageOptions, join_uri, open_filesystem, protocol_of
from sam_pipeline.storage.objects.retrying import retried
from sam_pipeline.storage.tables.delta import (
    METADATA_PREFIX,
    TABLE_ID_KEY,
    DataFile,
    create_table,
    open_table,
    output_errors,
    table_id,
)
from sam_pipeline.storage.tables.delta_place import Table
from sam_pipeline.storage.tables.row_slices import slices
from sam_pipeline.storage.tables.schema import TABLE_SCHEMAS

APP_ID = "sam-pipeline"

# Readers hold a row group whole, and twice while they decode it.
_ROW_GROUP_BYTES = 64 * 2**20

# How delta-rs reports that another writer's commit made ours impossible: of an epoch, or of the table's metadata.
_CONFLICTS = ("Concurrent transaction failed", "Metadata changed since last commit")


@dataclass(frozen=True, eq=False)
class FencedTable:
    """A table at a snapshot, which moves with each commit made here.

    Methods that read or write the log raise OutputError if it cannot be read or written, and StorageUnavailableError
    if storage did not answer. Methods that commit also raise FencedError if another writer committed since the
    snapshot.
    """

    snapshot: Table
    """The table at the version read last. A commit fails if another writer has committed since then."""
    schema: pa.Schema

    @classmethod
    def open(
        cls, output: str, name: TableName, storage_options: StorageOptions, *, denied_is_final: bool = True
    ) -> FencedTable | None:
        """Open a table of an output at its newest version; None where there is none. See open_table."""
        table = open_table(table_uri(output, name), storage_options, denied_is_final=denied_is_final)
        return None if table is None else cls(table, TABLE_SCHEMAS[name])

    @classmethod
    def create(
        cls, output: str, name: TableName, metadata: Mapping[str, str], storage_options: StorageOptions
    ) -> FencedTable:
        """Create a table of an output, or open the one that another writer just created. See create_table."""
        schema = TABLE_SCHEMAS[name]
        return cls(create_table(table_uri(output, name), schema, metadata, storage_options), schema)

    @property
    def uri(self) -> str:
        """The table's folder."""
        return self.snapshot.uri

    def put(self, rows: pa.Table, *, row_group_size: int) -> DataFile:
        """Write rows as one file of this table; see put_parquet."""
        storage_options, name = self.snapshot.storage_options, table_id(self.snapshot)
        return put_parquet(self.uri, rows, storage_options, row_group_size=row_group_size, table_id=name)

    def commit(
        self,
        files: Sequence[DataFile],
        *,
        epoch: int,
        replaced: Sequence[DataFile] = (),
        data_change: bool = True,
        custom_metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Add files to the table in one transaction, then move the snapshot to it.

        Args:
            files: may be empty, which only takes or confirms the epoch.
            epoch: the writer's.
            replaced: files to remove from the table; the new ones hold their rows, unless these are deleted.
            data_change: False if the rows are the same as before.
            custom_metadata: kept with the commit.
        """
        now_ms = int(time.time() * 1000)
        actions: list[AddAction | RemoveAction] = [_add_action(file, now_ms, data_change=data_change) for file in files]
        actions += [RemoveAction(file.path, data_change, now_ms, file.size_bytes) for file in replaced]

        def write(properties: CommitProperties) -> None:
            self.snapshot.create_write_transaction(actions, "append", self.schema, commit_properties=properties)

        self._commit_transaction(write, epoch=epoch, custom_metadata=custom_metadata)

    def change_metadata(self, metadata: Mapping[str, str], *, epoch: int) -> None:
        """Set entries of the table's metadata in one transaction (others stay), then move the snapshot to it."""
        table, properties = self.snapshot, {METADATA_PREFIX + name: value for name, value in metadata.items()}

        def write(commit_properties: CommitProperties) -> None:
            table.alter.set_table_properties(properties, raise_if_not_exists=False, commit_properties=commit_properties)

        self._commit_transaction(write, epoch=epoch)

    def _commit_transaction(
        self,
        write: Callable[[CommitProperties], object],
        *,
        epoch: int,
        custom_metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Do one transaction behind the fence, then move the snapshot to it.

        Storage may have done what it reports as failed: the answer was lost, or delta-rs tried again and met its own
        first attempt. So all attempts carry one id, and after a failure the log decides. Attempts start from the same
        snapshot; a reload in between would carry a superseded writer over the fence.

        Args:
            write: one attempt, with the properties that it must give to the commit.
            epoch: the writer's.
            custom_metadata: kept with the commit.
        """
        table, uri, version, commit_id = self.snapshot, self.uri, self.snapshot.version(), uuid.uuid4().hex
        properties = CommitProperties(
            custom_metadata={**(custom_metadata or {}), "commit_id": commit_id},
            app_transactions=[Transaction(APP_ID, epoch)],
        )

        def attempt() -> None:
            table.renew()
            try:
                write(properties)
            except Exception as error:
                if _is_committed(uri, table.storage_options, commit_id, after=version):
                    return
                if any(conflict in str(error) for conflict in _CONFLICTS):
                    raise _fenced(uri) from error
                raise

        with output_errors(uri):
            retried(attempt, what=f"commit to {uri}", denied_is_final=False)
        self.confirm_epoch(epoch)

    def take_epoch(self, custom_metadata: Mapping[str, str] | None = None) -> int:
        """Become the only writer of the table: from here on, the commits of every earlier writer fail.

        Every writer takes an epoch before it puts files, except for the first files of a plan or of prompts. So a
        vacuum, which takes one too, can tell whether a file that it found may still be committed.

        Returns:
            The epoch, to commit with.
        """
        # If another writer takes an epoch between reading it here and committing the next, that commit conflicts.
        epoch = self.next_epoch()
        self.commit([], epoch=epoch, custom_metadata=custom_metadata)
        return epoch

    def confirm_epoch(self, epoch: int) -> None:
        """Move the snapshot to the newest version and check that this epoch is still the latest."""
        with output_errors(self.uri):
            retried(self.snapshot.update_incremental, what=f"read {self.uri}", denied_is_final=False)
        # Must follow every update of a snapshot that is committed from. Such an update takes in whatever is newest. If
        # that is another writer's epoch, the next commit from this snapshot would no longer meet it as a conflict.
        if self.committed_epoch() != epoch:
            raise _fenced(self.uri)

    def committed_epoch(self) -> int | None:
        """The epoch of the snapshot; None before the first commit behind the fence.

        A snapshot does not hold epochs: delta-rs reads the log again.
        """
        table, uri = self.snapshot, self.uri
        with output_errors(uri):
            return retried(lambda: table.transaction_version(APP_ID), what=f"read {uri}", denied_is_final=False)

    def next_epoch(self) -> int:
        """The epoch after that of the snapshot."""
        return (self.committed_epoch() or 0) + 1

    def committed_metadata(self, name: str) -> str | None:
        """What the newest commit of the snapshot that has a name keeps under it, as given to commit; or None."""
        # Newest first. A limit counts those up to the snapshot; what came since is there too. Mostly the last has it.
        for limit in (1, self.snapshot.version() + 1):
            history = partial(self.snapshot.history, limit)
            with output_errors(self.uri):
                entries = retried(history, what=f"read {self.uri}", denied_is_final=False)[-limit:]
            if found := [entry[name] for entry in entries if name in entry]:
                return str(found[0])
        return None


def put_parquet(
    table_uri: str, rows: pa.Table, storage_options: StorageOptions, *, row_group_size: int, table_id: str
) -> DataFile:
    """Write rows, which must have an image_id column, as one Parquet file with one PUT.

    The file is built in memory first: closing a half-written stream after an exception would publish a valid but
    short file. Its name holds a uuid, so that no two attempts at the same rows ever share a name; a PUT that is tried
    again writes the same bytes under the same name.

    The name also holds the SHA-256 of the bytes: whatever the log names can be compared with what was written. The
    footer holds the id of the table: only a file that says so is ever deleted without the log naming it.

    Args:
        table_uri: the table's folder.
        rows: of the table's schema.
        storage_options: of fsspec.
        row_group_size: rows; fewer where they take more than 64 MiB in memory.
        table_id: see table_id.
    """
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, rows.schema, compression="zstd", write_page_checksum=True) as writer:
        for group in slices(rows, row_group_size, _ROW_GROUP_BYTES):
            writer.write_table(group)
        writer.add_key_value_metadata({TABLE_ID_KEY: table_id})
    content = buffer.getvalue()
    name = f"part-{uuid.uuid4()}-{hashlib.sha256(content).hexdigest()}.parquet"
    with output_errors(table_uri):
        filesystem, path = open_filesystem(join_uri(table_uri, name), storage_options)
        # Not final: a worker puts for days, and a role's credentials are renewed in between.
        try:
            retried(lambda: filesystem.pipe_file(path, content), what=f"write to {table_uri}", denied_is_final=False)
        except Exception:
            if protocol_of(table_uri) == "file":  # part of it is there, on a disk that may be full
                with suppress(OSError):
                    filesystem.rm_file(path)
            raise
    image_ids = rows["image_id"]
    return DataFile(
        path=name,
        size_bytes=len(content),
        num_rows=rows.num_rows,
        min_image_id=pc.min(image_ids).as_py(),
        max_image_id=pc.max(image_ids).as_py(),
    )


def _is_committed(uri: str, storage_options: StorageOptions, commit_id: str, *, after: int) -> bool:
    """Whether the log holds a commit with this id that is newer than a version."""
    newest = Table(uri, storage_options)
    num_newer = newest.version() - after
    return num_newer > 0 and any(entry.get("commit_id") == commit_id for entry in newest.history(num_newer))


def _fenced(uri: str) -> FencedError:
    return FencedError(f"another run took over {uri}; this one stops")


def _add_action(file: DataFile, now_ms: int, *, data_change: bool) -> AddAction:
    stats = {
        "numRecords": file.num_rows,
        "minValues": {"image_id": file.min_image_id},
        "maxValues": {"image_id": file.max_image_id},
        "nullCount": {"image_id": 0},
    }
    return AddAction(
        path=file.path,
        size=file.size_bytes,
        partition_values={},
        modification_time=now_ms,
        data_change=data_change,
        stats=json.dumps(stats),
    )
