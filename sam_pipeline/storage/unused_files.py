"""Finding and deleting the files of a table that nothing committed needs; only files that this program wrote."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow.parquet as pq

from sam_pipeline.errors import SamPipelineError
from sam_pipeline.storage.delta import REQUESTS_AT_ONCE, TABLE_ID_KEY, output_errors, sha256_in_name, table_id
from sam_pipeline.storage.delta_place import Table
from sam_pipeline.storage.filesystem import StorageOptions, join_uri, open_filesystem
from sam_pipeline.storage.retrying import retried
from sam_pipeline.storage.table_reading import table_filesystem

# Names of files of any version, and of those that delta-rs wrote for `retry` before we rewrote files ourselves.
_REMOVED_NAME = re.compile(r"part-[^/]+\.parquet")


@dataclass(frozen=True)
class UnusedFiles:
    """What stands in a table's folder and is not part of the table."""

    removable: list[str]
    """Names of files that this program wrote and that are, or were removed, long enough ago."""
    num_foreign: int
    """Files that it did not write, or that do not say so. Names that begin with a dot or an underscore are not seen."""


def find_unused_files(table: Table, options: StorageOptions, *, retention_hours: int) -> UnusedFiles:
    """Look for files that the table's snapshot does not need.

    Ours are those that a commit of the log removed, and those that killed writers put and did not commit. The latter
    are told by their name and by the table's id in their footer.

    Args:
        table: the table, whose epoch the caller holds.
        options: storage options.
        retention_hours: how old they must be.

    Raises:
        OutputError: the folder cannot be listed.
        StorageUnavailableError: storage did not answer.
    """
    removed = {name for name in _vacuum(table, retention_hours, full=False) if _REMOVED_NAME.fullmatch(name)}
    old = [name for name in _vacuum(table, retention_hours, full=True) if name not in removed]
    candidates = [name for name in old if sha256_in_name(name) is not None]
    put = {name for name, is_ours in zip(candidates, _are_of(table, candidates, options), strict=True) if is_ours}
    of_any_age = set(_vacuum(table, 0, full=True)).difference(_vacuum(table, 0, full=False))
    foreign = [name for name in of_any_age if sha256_in_name(name) is None]
    return UnusedFiles(sorted(removed | put), len(foreign) + len(candidates) - len(put))


def remove_files(table_uri: str, names: Sequence[str], options: StorageOptions) -> int:
    """Delete files of a table's folder.

    Returns:
        How many there were: the log names what was replaced long after it was deleted.
    """
    filesystem, folder = open_filesystem(table_uri, options)

    def remove(name: str) -> None:
        with suppress(FileNotFoundError):
            retried(lambda: filesystem.rm_file(join_uri(folder, name)), what=f"delete from {table_uri}")

    with output_errors(table_uri):
        listed = retried(lambda: filesystem.ls(folder, detail=False, refresh=True), what=f"list {table_uri}")
        there = {path.rsplit("/", 1)[-1] for path in listed}.intersection(names)
        _each(remove, there)
        return len(there)


def _vacuum(table: Table, retention_hours: int, *, full: bool) -> list[str]:
    """Files that the snapshot does not need: those that the log removed; full: and all others in the folder."""
    with output_errors(table.uri):
        paths: list[str] = retried(
            lambda: table.vacuum(retention_hours, dry_run=True, enforce_retention_duration=False, full=full),
            what=f"list {table.uri}",
        )
        return paths


def _are_of(table: Table, names: Sequence[str], options: StorageOptions) -> list[bool]:
    """Whether files say in their footers that they were written for this table."""
    filesystem, wanted = table_filesystem(table, options), table_id(table)

    def is_of_table(name: str) -> bool:
        uri = join_uri(table.uri, name)
        try:
            found = retried(partial(_footer, filesystem, name), what=f"read {uri}", denied_is_final=False)
        except SamPipelineError:
            raise
        except Exception:  # noqa: BLE001  whatever is wrong with it, it does not say that it is ours
            return False
        return found.get(TABLE_ID_KEY.encode()) == wanted.encode()

    return _each(is_of_table, names)


def _footer(filesystem: Any, name: str) -> dict[bytes, bytes]:
    with filesystem.open_input_file(name) as source:
        return pq.read_metadata(source).metadata or {}


def _each(call: Any, names: Iterable[str]) -> list[Any]:
    pool = ThreadPoolExecutor(REQUESTS_AT_ONCE)
    try:
        return list(pool.map(call, names))
    finally:
        pool.shutdown(cancel_futures=True)
