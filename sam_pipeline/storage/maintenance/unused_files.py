"""Finding and deleting the files of a table that nothing committed needs; only files that this program wrote."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import pyarrow.parquet as pq

from sam_pipeline.errors import OutputError
from sam_pipeline.storage.inputs.listing.store_listing import folder_names
from sam_pipeline.storage.objects.filesystem import StorageOptions, join_uri, open_filesystem
from sam_pipeline.storage.objects.retrying import retried
from sam_pipeline.storage.tables.delta import (
    REQUESTS_AT_ONCE,
    TABLE_ID_KEY,
    committed_files,
    output_errors,
    sha256_in_name,
    table_id,
)
from sam_pipeline.storage.tables.delta_place import Table
from sam_pipeline.storage.tables.reading.table_reading import table_filesystem

T = TypeVar("T")

# Names of files of any version, and of those that delta-rs wrote for `retry` before we rewrote files ourselves.
_REMOVED_NAME = re.compile(r"part-[^/]+\.parquet")


@dataclass(frozen=True)
class UnusedFiles:
    """What stands in a table's folder and is not part of the table."""

    removable: list[str]
    """Names of files that this program wrote and that were put, or removed, long enough ago."""
    num_foreign: int
    """Files and folders that it did not write, or that do not say so. Hidden ones are not counted."""


def find_unused_files(table: Table, storage_options: StorageOptions, *, retention_hours: int) -> UnusedFiles:
    """Look for files that the table's snapshot does not need. Only what is directly in the folder is looked at.

    Ours are those that a commit of the log removed, and those that killed writers put and did not commit. The latter
    are told by their name and by the table's id in their footer.

    Args:
        table: whose epoch the caller holds.
        storage_options: of fsspec.
        retention_hours: how old they must be.

    Raises:
        OutputError: the folder cannot be listed.
        StorageUnavailableError: storage did not answer.
    """
    removed, removed_long_ago = (set(_removed(table, hours)) for hours in (0, retention_hours))
    known = removed | {file.path for file in committed_files(table)} | {"_delta_log"}
    there, others, num_foreign = _look_at(table.uri, removed_long_ago, known, storage_options)
    put_before = time.time() - retention_hours * 3600
    verdicts = _each(partial(_is_put_here, table, storage_options, put_before), others)
    put = [name for name, is_ours in zip(others, verdicts, strict=True) if is_ours]
    return UnusedFiles(sorted([*there, *put]), num_foreign + verdicts.count(False))


def remove_files(table_uri: str, names: Sequence[str], storage_options: StorageOptions) -> None:
    """Delete files of a table's folder."""
    filesystem, folder = open_filesystem(table_uri, storage_options)

    def remove(name: str) -> None:
        with suppress(FileNotFoundError):
            retried(lambda: filesystem.rm_file(join_uri(folder, name)), what=f"delete from {table_uri}")

    with output_errors(table_uri):
        _each(remove, names)


def _removed(table: Table, hours: int) -> list[str]:
    """Files that the log removed so long ago; most of them are deleted since.

    Not with `full`, with which delta-rs also lists the folder: it follows links, goes into the folders of others, and
    stops at names that it cannot read.
    """
    with output_errors(table.uri):
        names: list[str] = retried(
            lambda: table.vacuum(hours, dry_run=True, enforce_retention_duration=False), what=f"read {table.uri}"
        )
        return [name for name in names if _REMOVED_NAME.fullmatch(name)]


def _look_at(
    uri: str, removed: set[str], known: set[str], storage_options: StorageOptions
) -> tuple[list[str], list[str], int]:
    """(removed files that are still there, files that have our form of name and are not known, number of others)."""
    filesystem, folder = open_filesystem(uri, storage_options)

    def look() -> tuple[list[str], list[str], int]:
        there, others, num_foreign = [], [], 0
        for name in folder_names(filesystem, folder):
            if name not in removed and (name in known or name.startswith(".")):
                continue
            if "file" in filesystem.protocol and not _is_plain_file(os.path.join(folder, name)):
                num_foreign += 1
            elif name in removed:
                there.append(name)
            elif sha256_in_name(name) is not None:
                others.append(name)
            else:
                num_foreign += 1
        return there, others, num_foreign

    with output_errors(uri):
        return retried(look, what=f"list {uri}")


def _is_plain_file(path: str) -> bool:
    """Whether it is a regular file itself: this program makes no links, and a FIFO blocks whoever opens it."""
    return os.path.isfile(path) and not os.path.islink(path)


def _is_put_here(table: Table, storage_options: StorageOptions, put_before: float, name: str) -> bool | None:
    """Whether a file says in its footer that it was written for this table; None if it was, but lately."""
    filesystem = table_filesystem(table, storage_options)

    def look() -> bool | None:
        (info,) = filesystem.get_file_info([name])
        with filesystem.open_input_file(name) as source:
            footer = pq.read_metadata(source).metadata or {}
        if footer.get(TABLE_ID_KEY.encode()) != table_id(table).encode():
            return False
        return True if info.mtime.timestamp() < put_before else None

    uri = join_uri(table.uri, name)
    try:
        with output_errors(uri):
            return retried(look, what=f"read {uri}", denied_is_final=False)
    except OutputError:  # whatever is wrong with it, it does not say that it is ours
        return False


def _each(call: Callable[[str], T], names: Iterable[str]) -> list[T]:
    pool = ThreadPoolExecutor(REQUESTS_AT_ONCE)
    try:
        return list(pool.map(call, names))
    finally:
        pool.shutdown(cancel_futures=True)
