"""Replacing committed files of the results: small ones are merged, deleted rows are left out, files are dropped.

Each is done in fenced commits of some files, so that a kill loses little of it. delta-rs does none of it: its
compaction bypasses the fence, and its deletion takes a condition as text, in which thirty thousand ids overflow its
stack (deltalake 1.6.6). Replaced files stay in the folder, unseen, until a vacuum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sam_pipeline.errors import DamagedFileError
from sam_pipeline.storage.tables.delta import DataFile, committed_files
from sam_pipeline.storage.tables.fenced_table import FencedTable
from sam_pipeline.storage.tables.reading.table_reading import checked_opener, read_checked, read_columns

ROWS_PER_GROUP = 1024
"""A row holds about a hundred masks, 50 KB: groups of this many rows stay near 50 MB uncompressed."""

# A merge holds its rows once as Arrow and twice as a file: half a gigabyte.
_COMPACTED_FILE_BYTES = 128 * 2**20
_FILES_AT_ONCE = 2
# Rows without masks take next to nothing, but readers hold the metadata of each of their groups.
_COMPACTED_FILE_ROWS = 2**18
# The fullest large file that the last small files may join, as a share of the size wanted.
_MOST_FILL = 1.5

_DELETIONS_PER_COMMIT = 64
"""Files: what a kill makes a deletion do again."""

IsDeleted = Callable[[pa.Table], npt.NDArray[np.bool_]]
"""(rows) of a file → (rows,) which of them are to be deleted."""


@dataclass(frozen=True)
class Rewriter:
    """Who may replace files of the results: the start whose epoch it is.

    Methods raise FencedError once a later start took over, OutputError where a file cannot be read or the place not be
    written, and StorageUnavailableError.
    """

    table: FencedTable
    """The results."""
    epoch: int

    def compact(self) -> None:
        """Merge small files, until no two are left: many small ones compress to less than the sum of their sizes."""
        with _threads() as pool:
            while groups := _mergeable(committed_files(self.table.snapshot)):
                for start in range(0, len(groups), _FILES_AT_ONCE):
                    part = groups[start : start + _FILES_AT_ONCE]
                    merged = list(pool.map(self._merge, part))
                    self._replace([file for group in part for file in group], merged, data_change=False)

    def delete(self, files: Sequence[DataFile], columns: Sequence[str], is_deleted: IsDeleted) -> int:
        """Delete rows.

        Args:
            files: that may hold some of them.
            columns: what the choice depends on.
            is_deleted: the choice.

        Returns:
            The number of rows.
        """
        counts = [
            int(is_deleted(rows).sum())
            for rows in read_columns(self.table.snapshot, columns, self.table.snapshot.storage_options, files=files)
        ]
        affected = [file for file, count in zip(files, counts, strict=True) if count]
        emptied = {file.path for file, count in zip(files, counts, strict=True) if count == file.num_rows}
        with _threads() as pool:
            for start in range(0, len(affected), _DELETIONS_PER_COMMIT):
                part = affected[start : start + _DELETIONS_PER_COMMIT]
                kept = [file for file in part if file.path not in emptied]
                self._replace(part, list(pool.map(partial(self._without, is_deleted=is_deleted), kept)))
        return sum(counts)

    def drop(self, files: Sequence[DataFile]) -> None:
        """Take files, and so all their rows, out of the table."""
        if files:
            self._replace(files, [])

    def _replace(self, old: Sequence[DataFile], new: Sequence[DataFile], *, data_change: bool = True) -> None:
        self.table.commit(new, epoch=self.epoch, replaced=old, data_change=data_change)

    def _merge(self, files: Sequence[DataFile]) -> DataFile:
        return self._put(rows for file in files for rows in self._row_groups(file))

    def _without(self, file: DataFile, *, is_deleted: IsDeleted) -> DataFile:
        return self._put(rows.filter(pa.array(~is_deleted(rows))) for rows in self._row_groups(file))

    def _row_groups(self, file: DataFile) -> Iterator[pa.Table]:
        """The rows of a file, a row group at a time: all of them in memory would take half a gigabyte more.

        The file is compared with its checksum first. Otherwise the new file's checksum would confirm a flipped bit.
        """
        try:
            yield from read_checked(
                file, checked_opener(self.table.snapshot, self.table.snapshot.storage_options), self.table.schema
            )
        except DamagedFileError as error:
            raise DamagedFileError(f"{error}; retry --damaged has its images done again") from error

    def _put(self, parts: Iterator[pa.Table]) -> DataFile:
        return self.table.put(pa.concat_tables(parts), row_group_size=ROWS_PER_GROUP)


@contextmanager
def _threads() -> Iterator[ThreadPoolExecutor]:
    """Threads that nobody waits for after a signal: what they put is not committed."""
    pool = ThreadPoolExecutor(_FILES_AT_ONCE)
    try:
        yield pool
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _mergeable(files: Sequence[DataFile]) -> list[list[DataFile]]:
    """Groups of two or more files, neighbours by id, that together make a file of the size wanted.

    A file of more than half that size is large and stays as it is. If the last group holds no more than half that size,
    it joins the group before it. If it is the only group, the smallest large file joins it, unless that is too full.
    """
    groups: list[list[DataFile]] = [[]]
    large = []
    num_bytes = num_rows = 0
    for file in sorted(files, key=lambda file: file.min_image_id):
        if _fill(file) > 1 / 2:
            large.append(file)
            continue
        num_bytes, num_rows = num_bytes + file.size_bytes, num_rows + file.num_rows
        if num_bytes > _COMPACTED_FILE_BYTES or num_rows > _COMPACTED_FILE_ROWS:
            groups.append([])
            num_bytes, num_rows = file.size_bytes, file.num_rows
        groups[-1].append(file)
    if num_bytes <= _COMPACTED_FILE_BYTES // 2 and num_rows <= _COMPACTED_FILE_ROWS // 2:
        rest = groups.pop()
        if groups:
            groups[-1] += rest
        elif rest and large and _fill(smallest := min(large, key=_fill)) <= _MOST_FILL:
            groups.append([smallest, *rest])
        else:
            groups.append(rest)
    return [group for group in groups if len(group) > 1]


def _fill(file: DataFile) -> float:
    """The size of a file, as a share of that wanted."""
    return max(file.size_bytes / _COMPACTED_FILE_BYTES, file.num_rows / _COMPACTED_FILE_ROWS)
