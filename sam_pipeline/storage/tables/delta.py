"""The few Delta operations that all tables share: create, open, put a Parquet file, commit it behind a fence.

Delta's log gives atomic commits of many files by conditional PUT on S3, GCS, Azure and local disk. The fence is its
application transaction: a commit carries (app id, epoch), and it fails when another writer committed the same app id
after this writer's snapshot. Such a writer has been superseded and must stop; reloading and retrying would undo the
fence.

Only `commit_transaction` writes to a table that exists. delta-rs's own optimize and vacuum pass the fence whatever they
are given, and two compactions from one snapshot leave every row twice (deltalake 1.6.6).
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.exceptions import TableNotFoundError
from deltalake.transaction import AddAction, CommitProperties, RemoveAction, Transaction

from sam_pipeline.errors import FencedError, OutputError, SamPipelineError, is_panic
from sam_pipeline.safety.clean_text import one_line
from sam_pipeline.storage.objects.filesystem import StorageOptions, join_uri, open_filesystem
from sam_pipeline.storage.objects.retrying import retried
from sam_pipeline.storage.tables.delta_place import Table, delta_storage_options, delta_uri

APP_ID = "sam-pipeline"

METADATA_PREFIX = "sam_pipeline."

# Of which columns the log has statistics. Unless it is told, deltalake 1.6.6 takes a column without any for one whose
# least and largest values are null, and a pyarrow dataset of the table, or DuckDB through it, then finds no row by it.
_STATISTICS = {"delta.dataSkippingStatsColumns": "image_id"}

# What delta-rs says of a commit after which another's is no more possible: of one with an epoch, and of one that also
# changed the table's metadata.
_CONFLICTS = ("Concurrent transaction failed", "Metadata changed since last commit")

REQUESTS_AT_ONCE = 16
"""A small request waits for the store, some 20 ms on S3. More threads than this wait for each other instead."""


TABLE_ID_KEY = "sam_pipeline.table"
"""Entry in the footer of every file of ours: the id of the table that it was written for."""

_FILE_NAME = re.compile(r"part-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}-(?P<sha256>[0-9a-f]{64})\.parquet")


@dataclass(frozen=True)
class DataFile:
    """A Parquet file that was put; until it is committed no reader sees it."""

    path: str
    """Name inside the table's folder."""
    size_bytes: int
    num_rows: int
    min_image_id: int
    max_image_id: int

    @property
    def sha256(self) -> str | None:
        """Of the file's bytes; None for a file that an earlier version wrote."""
        return sha256_in_name(self.path)


def sha256_in_name(name: str) -> str | None:
    """The SHA-256 that put_parquet wrote into the name of a file; None for any other name."""
    match = _FILE_NAME.fullmatch(name)
    return None if match is None else match["sha256"]


@contextmanager
def output_errors(uri: str) -> Iterator[None]:
    """Turn what storage and its libraries raise into an OutputError of one line."""
    try:
        yield
    except SamPipelineError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        raise OutputError(f"cannot use output {uri}: {one_line(error)}") from error


def open_table(uri: str, options: StorageOptions, *, denied_is_final: bool = True) -> Table | None:
    """Open a Delta table at its newest version; None where there is none.

    Args:
        uri: where.
        options: storage options.
        denied_is_final: see retried; False for whoever could open it before.

    Raises:
        OutputError: it cannot be read.
        StorageUnavailableError: storage did not answer.
    """
    with output_errors(uri):
        return retried(lambda: _open(uri, options), what=f"open {uri}", denied_is_final=denied_is_final)


def create_table(uri: str, schema: pa.Schema, metadata: Mapping[str, str], options: StorageOptions) -> Table:
    """Create an empty Delta table (version 0) that carries metadata, or open the one that another writer just created.

    Who may go on is decided by the first fenced commit, not here; so it does not matter either whether the table found
    after a failure is one that this call made and was not told of.

    Raises:
        OutputError: the place cannot be written.
        StorageUnavailableError: storage did not answer.
    """

    def create() -> Table:
        try:
            DeltaTable.create(
                delta_uri(uri),
                schema,
                storage_options=delta_storage_options(uri, options),
                configuration=_STATISTICS | {METADATA_PREFIX + key: value for key, value in metadata.items()},
                raise_if_key_not_exists=False,
                # With retries, the loser of a race commits its own metadata over the winner's, as version 1.
                commit_properties=CommitProperties(max_commit_retries=0),
            )
            return Table(uri, options)
        except Exception:
            existing = _open(uri, options)
            if existing is None:
                raise
            return existing

    with output_errors(uri):
        filesystem, path = open_filesystem(uri, options)
        if "file" in filesystem.protocol:
            filesystem.makedirs(path, exist_ok=True)
        return retried(create, what=f"create {uri}")


def table_metadata(table: Table) -> dict[str, str]:
    """The metadata given to create_table.

    Raises:
        OutputError: there is none, so the table was made by another program.
    """
    configuration: dict[str, str] = table.metadata().configuration
    ours = {
        key.removeprefix(METADATA_PREFIX): value
        for key, value in configuration.items()
        if key.startswith(METADATA_PREFIX)
    }
    if not ours:
        raise OutputError(f"{table.uri} is a Delta table of another program; use another output")
    return ours


def change_metadata(table: Table, metadata: Mapping[str, str], options: StorageOptions, *, epoch: int) -> None:
    """Give a table other metadata, in one transaction at this epoch, then move the snapshot to it.

    Raises:
        FencedError, OutputError, StorageUnavailableError: as commit_files.
    """
    properties = {METADATA_PREFIX + name: value for name, value in metadata.items()}

    def write(commit_properties: CommitProperties) -> None:
        table.alter.set_table_properties(properties, raise_if_not_exists=False, commit_properties=commit_properties)

    commit_transaction(table, write, options, epoch=epoch)


def table_id(table: Table) -> str:
    """What names a table for good, whoever creates another one in its place."""
    return str(table.metadata().id)


def put_parquet(
    table_uri: str, rows: pa.Table, options: StorageOptions, *, row_group_size: int, table_id: str
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
        options: storage options.
        row_group_size: rows.
        table_id: see table_id.
    """
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, rows.schema, compression="zstd", write_page_checksum=True) as writer:
        writer.write_table(rows, row_group_size=row_group_size)
        writer.add_key_value_metadata({TABLE_ID_KEY: table_id})
    content = buffer.getvalue()
    name = f"part-{uuid.uuid4()}-{hashlib.sha256(content).hexdigest()}.parquet"
    with output_errors(table_uri):
        filesystem, path = open_filesystem(join_uri(table_uri, name), options)
        # Not final: a worker puts for days, and a role's credentials are renewed in between.
        retried(lambda: filesystem.pipe_file(path, content), what=f"write to {table_uri}", denied_is_final=False)
    image_ids = rows["image_id"]
    return DataFile(
        path=name,
        size_bytes=len(content),
        num_rows=rows.num_rows,
        min_image_id=pa.compute.min(image_ids).as_py(),
        max_image_id=pa.compute.max(image_ids).as_py(),
    )


def commit_files(
    table: Table,
    schema: pa.Schema,
    files: Sequence[DataFile],
    options: StorageOptions,
    *,
    epoch: int,
    replaced: Sequence[DataFile] = (),
    data_change: bool = True,
    custom_metadata: Mapping[str, str] | None = None,
) -> None:
    """Add files to a table in one transaction at this epoch, then move the snapshot to it.

    Args:
        table: where to; its snapshot decides what is newer.
        schema: the table's.
        files: may be empty, which only takes or confirms the epoch.
        options: storage options.
        epoch: the writer's.
        replaced: files that are removed, because the new ones hold their rows.
        data_change: False if the rows are the same as before.
        custom_metadata: kept with the commit.

    Raises:
        FencedError: another writer committed since the table's snapshot.
        OutputError: the log could not be written.
        StorageUnavailableError: storage did not answer.
    """
    now_ms = int(time.time() * 1000)
    actions: list[AddAction | RemoveAction] = [_add_action(file, now_ms, data_change=data_change) for file in files]
    actions += [RemoveAction(file.path, data_change, now_ms, file.size_bytes) for file in replaced]

    def write(properties: CommitProperties) -> None:
        table.create_write_transaction(actions, "append", schema, commit_properties=properties)

    commit_transaction(table, write, options, epoch=epoch, custom_metadata=custom_metadata)


def commit_transaction(
    table: Table,
    write: Callable[[CommitProperties], object],
    options: StorageOptions,
    *,
    epoch: int,
    custom_metadata: Mapping[str, str] | None = None,
) -> None:
    """Do one transaction behind the fence, then move the table's snapshot to it.

    Storage may have done what it reports as failed: the answer was lost, or delta-rs tried again and met its own first
    attempt. So all attempts carry one id, and after a failure the log decides. Attempts start from the same snapshot;
    a reload in between would carry a superseded writer over the fence.

    Args:
        table: whose snapshot the transaction starts from.
        write: one attempt, with the properties that it must give to the commit.
        options: storage options.
        epoch: the writer's.
        custom_metadata: kept with the commit.

    Raises:
        FencedError: another writer committed since the table's snapshot.
        OutputError: the log could not be written.
        StorageUnavailableError: storage did not answer.
    """
    uri, snapshot, commit_id = table.uri, table.version(), uuid.uuid4().hex
    properties = CommitProperties(
        custom_metadata={**(custom_metadata or {}), "commit_id": commit_id},
        app_transactions=[Transaction(APP_ID, epoch)],
    )

    def attempt() -> None:
        table.renew()
        try:
            write(properties)
        except Exception as error:
            if _is_committed(uri, options, commit_id, after=snapshot):
                return
            if any(conflict in str(error) for conflict in _CONFLICTS):
                raise _fenced(uri) from error
            raise

    with output_errors(uri):
        retried(attempt, what=f"commit to {uri}", denied_is_final=False)
    confirm_epoch(table, epoch)


def take_epoch(
    table: Table, schema: pa.Schema, options: StorageOptions, *, custom_metadata: Mapping[str, str] | None = None
) -> int:
    """Become the only writer of a table: from here on, the commits of every earlier writer fail.

    Whoever puts files takes an epoch first, but for the first files of a plan or of prompts. Then a vacuum, which takes
    one too, can tell whether a file that it found may still be committed.

    Returns:
        The epoch, to commit with.

    Raises:
        FencedError: another writer took the same epoch.
        OutputError: the log could not be written.
        StorageUnavailableError: storage did not answer.
    """
    # If another writer takes an epoch between reading it here and committing the next, that commit conflicts.
    epoch = (committed_epoch(table) or 0) + 1
    commit_files(table, schema, [], options, epoch=epoch, custom_metadata=custom_metadata)
    return epoch


def confirm_epoch(table: Table, epoch: int) -> None:
    """Move the snapshot to the newest version and look whether this epoch is still the latest.

    Raises:
        FencedError: another writer took over.
        OutputError: the log could not be read.
        StorageUnavailableError: storage did not answer.
    """
    with output_errors(table.uri):
        retried(table.update_incremental, what=f"read {table.uri}", denied_is_final=False)
    check_fence(table, epoch)


def committed_epoch(table: Table) -> int | None:
    """The epoch of the table's snapshot; None before the first commit behind the fence.

    Raises:
        OutputError: the log could not be read.
        StorageUnavailableError: storage did not answer. A snapshot does not hold epochs: delta-rs reads the log again.
    """
    uri = table.uri
    with output_errors(uri):
        return retried(lambda: table.transaction_version(APP_ID), what=f"read {uri}", denied_is_final=False)


def check_fence(table: Table, epoch: int) -> None:
    """Must follow every update of a snapshot that is committed from.

    Such an update takes in whatever is newest. If that is another writer's epoch, the next commit from this snapshot
    would no longer meet it as a conflict.

    Raises:
        FencedError: another writer took over.
    """
    if committed_epoch(table) != epoch:
        raise _fenced(table.uri)


def committed_metadata(table: Table, name: str) -> str | None:
    """What the newest commit that has it keeps under a name, as given to commit_files; None if none has it.

    Raises:
        OutputError: the log could not be read.
        StorageUnavailableError: storage did not answer.
    """
    uri = table.uri
    with output_errors(uri):
        entries = retried(table.history, what=f"read {uri}", denied_is_final=False)
    return next((entry[name] for entry in entries if name in entry), None)


def committed_files(table: Table) -> list[DataFile]:
    """The files of the table's snapshot, as the log describes them."""
    actions = pa.table(table.get_add_actions(flatten=True))
    columns = ("path", "size_bytes", "num_records", "min.image_id", "max.image_id")
    return [DataFile(*values) for values in zip(*(actions[name].to_pylist() for name in columns), strict=True)]


def _open(uri: str, options: StorageOptions) -> Table | None:
    try:
        return Table(uri, options)
    except TableNotFoundError:
        return None


def _is_committed(uri: str, options: StorageOptions, commit_id: str, *, after: int) -> bool:
    """Whether the log holds a commit with this id that is newer than a version."""
    newest = Table(uri, options)
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
