"""Creating and opening Delta tables, and reading their log. What writes to a table is in fenced_table.py."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import TableNotFoundError
from deltalake.transaction import CommitProperties

from sam_pipeline.errors import OutputError, SamPipelineError, is_panic
from sam_pipeline.safety.clean_text import one_line
from sam_pipeline.storage.objects.filesystem import StorageOptions, open_filesystem
from sam_pipeline.storage.objects.retrying import retried
from sam_pipeline.storage.tables.delta_place import Table, delta_storage_options, delta_uri

METADATA_PREFIX = "sam_pipeline."

_PROPERTIES = {
    # Of which columns the log has statistics. Unless it is told, deltalake 1.6.6 takes a column without any for one
    # whose least and largest values are null, and a pyarrow dataset of the table, or DuckDB through it, then finds no
    # row by it.
    "delta.dataSkippingStatsColumns": "image_id",
    # Else checkpoints remove entries older than thirty days, which say what each start has committed.
    "delta.enableExpiredLogCleanup": "false",
}

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
        """Checksum of the file's bytes; None for a file that an earlier version wrote."""
        return sha256_in_name(self.path)


def sha256_in_name(name: str) -> str | None:
    """The SHA-256 that put_parquet wrote into the name of a file; None for any other name."""
    match = _FILE_NAME.fullmatch(name)
    return None if match is None else match["sha256"]


@contextmanager
def output_errors(uri: str, message: str = "cannot use output {uri}: {error}") -> Iterator[None]:
    """Turn what storage and its libraries raise into an OutputError of one line; errors of our own stay as they are."""
    try:
        yield
    except SamPipelineError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        raise OutputError(message.format(uri=uri, error=one_line(error))) from error


def open_table(uri: str, storage_options: StorageOptions, *, denied_is_final: bool = True) -> Table | None:
    """Open a Delta table at its newest version; None where there is none.

    Args:
        uri: where.
        storage_options: of fsspec.
        denied_is_final: see retried; False for whoever could open it before.

    Raises:
        OutputError: it cannot be read.
        StorageUnavailableError: storage did not answer.
    """
    with output_errors(uri):
        return retried(lambda: _open(uri, storage_options), what=f"open {uri}", denied_is_final=denied_is_final)


def create_table(uri: str, schema: pa.Schema, metadata: Mapping[str, str], storage_options: StorageOptions) -> Table:
    """Create an empty Delta table (version 0) that carries metadata, or open the one that another writer just created.

    The first fenced commit decides who may go on, not the creation. So a table that is found after a failure is taken,
    whether another writer created it, or this call did and the answer was lost.

    Raises:
        OutputError: the place cannot be written.
        StorageUnavailableError: storage did not answer.
    """

    def create() -> Table:
        try:
            DeltaTable.create(
                delta_uri(uri),
                schema,
                storage_options=delta_storage_options(uri, storage_options),
                configuration=_PROPERTIES | {METADATA_PREFIX + key: value for key, value in metadata.items()},
                raise_if_key_not_exists=False,
                # With retries, the loser of a race commits its own metadata over the winner's, as version 1.
                commit_properties=CommitProperties(max_commit_retries=0),
            )
            return Table(uri, storage_options)
        except Exception:
            existing = _open(uri, storage_options)
            if existing is None:
                raise
            return existing

    with output_errors(uri):
        filesystem, path = open_filesystem(uri, storage_options)
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


def table_id(table: Table) -> str:
    """The id in the table's metadata: a table that is created later in the same folder has another."""
    return str(table.metadata().id)


def committed_files(table: Table) -> list[DataFile]:
    """The files of the table's snapshot, as the log describes them."""
    actions = pa.table(table.get_add_actions(flatten=True))
    columns = ("path", "size_bytes", "num_records", "min.image_id", "max.image_id")
    return [DataFile(*values) for values in zip(*(actions[name].to_pylist() for name in columns), strict=True)]


def _open(uri: str, storage_options: StorageOptions) -> Table | None:
    try:
        return Table(uri, storage_options)
    except TableNotFoundError:
        return None
