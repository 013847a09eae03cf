"""The few Delta operations that both tables share: create, open, put a Parquet file, commit it behind a fence.

Delta's log gives atomic commits of many files by conditional PUT on S3, GCS, Azure and local disk. The fence is its
application transaction: a commit carries (app id, epoch), and it fails when another writer committed the same app id
after this writer's snapshot. Such a writer has been superseded and must stop; reloading and retrying would undo the
fence.
"""

from __future__ import annotations

import io
import json
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.transaction import AddAction, CommitProperties, Transaction

from sam_pipeline.errors import FencedError, OutputError, SamPipelineError
from sam_pipeline.storage.filesystem import StorageOptions, delta_storage_options, join_uri, one_line, open_filesystem

APP_ID = "sam-pipeline"

METADATA_PREFIX = "sam_pipeline."


@dataclass(frozen=True)
class DataFile:
    """A Parquet file that was put but not yet committed; until then no reader sees it."""

    path: str
    """Name inside the table's folder."""
    size_bytes: int
    num_rows: int
    min_image_id: int
    max_image_id: int


@contextmanager
def output_errors(uri: str) -> Iterator[None]:
    """Turn storage failures into OutputError, and a lost fence into FencedError."""
    try:
        yield
    except CommitFailedError as error:
        if "Concurrent transaction failed" in str(error):
            raise FencedError(f"another run took over {uri}; this one stops") from error
        raise OutputError(f"cannot commit to {uri}: {one_line(error)}") from error
    except SamPipelineError:
        raise
    except Exception as error:
        raise OutputError(f"cannot use output {uri}: {one_line(error)}") from error


def open_table(uri: str, options: StorageOptions) -> DeltaTable | None:
    """Open a Delta table; None where there is none."""
    with output_errors(uri):
        try:
            return DeltaTable(uri, storage_options=delta_storage_options(uri, options))
        except TableNotFoundError:
            return None


def create_table(uri: str, schema: pa.Schema, metadata: Mapping[str, str], options: StorageOptions) -> DeltaTable:
    """Create an empty Delta table (version 0) that carries metadata, or open the one that another writer just created.

    Who may go on is decided by the first fenced commit, not here.

    Raises:
        OutputError: the place cannot be written.
    """
    with output_errors(uri):
        filesystem, path = open_filesystem(uri, options)
        if "file" in filesystem.protocol:
            filesystem.makedirs(path, exist_ok=True)
        try:
            return DeltaTable.create(
                uri,
                schema,
                storage_options=delta_storage_options(uri, options),
                configuration={METADATA_PREFIX + key: value for key, value in metadata.items()},
                raise_if_key_not_exists=False,
                # With retries, the loser of a race commits its own metadata over the winner's, as version 1.
                commit_properties=CommitProperties(max_commit_retries=0),
            )
        except DeltaError:
            existing = open_table(uri, options)
            if existing is None:
                raise
            return existing


def table_metadata(table: DeltaTable) -> dict[str, str]:
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
        raise OutputError(f"{table.table_uri} is a Delta table of another program; use another output")
    return ours


def put_parquet(table_uri: str, rows: pa.Table, options: StorageOptions, *, row_group_size: int) -> DataFile:
    """Write rows, which must have an image_id column, as one Parquet file with one PUT.

    The file is built in memory first: closing a half-written stream after an exception would publish a valid but
    short file. Its name holds a uuid, so that no two attempts at the same rows ever share a name.
    """
    buffer = io.BytesIO()
    pq.write_table(rows, buffer, compression="zstd", row_group_size=row_group_size)
    name = f"part-{uuid.uuid4()}.parquet"
    with output_errors(table_uri):
        filesystem, path = open_filesystem(join_uri(table_uri, name), options)
        filesystem.pipe_file(path, buffer.getvalue())
    image_ids = rows["image_id"]
    return DataFile(
        path=name,
        size_bytes=buffer.tell(),
        num_rows=rows.num_rows,
        min_image_id=pa.compute.min(image_ids).as_py(),
        max_image_id=pa.compute.max(image_ids).as_py(),
    )


def commit_files(
    table: DeltaTable,
    schema: pa.Schema,
    files: Sequence[DataFile],
    *,
    epoch: int,
    custom_metadata: Mapping[str, Any] | None = None,
) -> None:
    """Append files to a table in one transaction at this epoch, then move the snapshot to it.

    Raises:
        FencedError: another writer committed since the table's snapshot.
        OutputError: the log could not be written.
    """
    with output_errors(table.table_uri):
        table.create_write_transaction(
            [_add_action(file) for file in files],
            "append",
            schema,
            commit_properties=CommitProperties(
                custom_metadata=None if custom_metadata is None else dict(custom_metadata),
                app_transactions=[Transaction(APP_ID, epoch)],
            ),
        )
        table.update_incremental()


def _add_action(file: DataFile) -> AddAction:
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
        modification_time=int(time.time() * 1000),
        data_change=True,
        stats=json.dumps(stats),
    )
