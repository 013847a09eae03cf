"""Parquet files in batches of bounded size, although a file of a kilobyte may stand for terabytes.

Rows may share one value of a dictionary, and a page of zeros shrinks to nothing. So neither the size of the file nor a
mean tells what a batch of rows takes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pyarrow.types as pt

# A footer takes twenty times as much in memory. One of 16 MiB describes a hundred thousand pieces of columns.
_MAX_FOOTER_BYTES = 2**24
# A page is read whole.
_MAX_PAGE_BYTES = 2**30

_BATCH_BYTES = 2**26
_GROUP_BYTES = 2**29
_BYTES_OF_NUMBER = 8


class _LimitedFile:
    """A file of which no more than so many bytes are read at once."""

    def __init__(self, file: Any, most: int) -> None:
        self._file, self.most = file, most

    def read(self, size: int = -1) -> bytes:
        if size < 0 or size > self.most:
            raise ValueError(f"{size} bytes in one piece, the limit is {self.most}")
        data: bytes = self._file.read(size)
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def bounded_parquet(file: Any, buffer_bytes: int, metadata: Any = None, **options: Any) -> pq.ParquetFile:
    """Read a Parquet file's footer; pages are read later.

    Args:
        file: as Python's files in binary mode.
        buffer_bytes: asked for at once when pages are read.
        metadata: the footer, if it was read before.
        options: of pyarrow.

    Raises:
        ValueError: a footer of more than 16 MiB; when rows are read, a page of more than 1 GiB.
        OSError, pa.ArrowException: damaged, or whatever the storage says.
    """
    limited = _LimitedFile(file, _MAX_FOOTER_BYTES)
    # Not pre_buffer: it holds the column of a whole row group.
    parquet = pq.ParquetFile(limited, metadata=metadata, pre_buffer=False, buffer_size=buffer_bytes, **options)
    limited.most = _MAX_PAGE_BYTES
    return parquet


def column_batches(file: Any, columns: Sequence[str], batch_rows: int, buffer_bytes: int) -> Iterator[pa.RecordBatch]:
    """Read columns from the first row to the last.

    Args:
        file: as Python's files in binary mode.
        columns: names of top-level columns.
        batch_rows: at most.
        buffer_bytes: asked for at once.

    Yields:
        Batches whose values take about 64 MiB at most, or one row.

    Raises:
        ValueError, OSError, pa.ArrowException: see bounded_parquet.
    """
    plain = bounded_parquet(file, buffer_bytes)
    leaves = _leaves(plain, columns)
    flat = [leaf for leaf in leaves if leaf in columns and _is_text(plain, leaves[leaf])]
    by_dictionary = bounded_parquet(file, buffer_bytes, plain.metadata, read_dictionary=flat)
    for group in range(plain.num_row_groups):
        fits = sum(_bytes_of(plain, group, leaves[leaf], leaf in flat) for leaf in leaves) <= _GROUP_BYTES
        parquet, num_rows = (by_dictionary, batch_rows) if fits else (plain, 1)
        batches = parquet.iter_batches(num_rows, row_groups=[group], columns=list(columns), use_threads=False)
        if fits:
            for batch in batches:
                yield from _decoded(batch)
        else:
            yield from _merged(batches, batch_rows)


def _leaves(parquet: pq.ParquetFile, columns: Sequence[str]) -> dict[str, int]:
    """The columns without fields of their own that are in some columns, by path, with their numbers."""
    paths = [parquet.schema.column(index).path for index in range(len(parquet.schema))]
    return {path: index for index, path in enumerate(paths) if path.partition(".")[0] in columns or path in columns}


def _is_text(parquet: pq.ParquetFile, leaf: int) -> bool:
    column = parquet.schema.column(leaf)
    return bool(column.physical_type == "BYTE_ARRAY" and column.max_repetition_level == 0)


def _bytes_of(parquet: pq.ParquetFile, group: int, leaf: int, is_by_dictionary: bool) -> float:
    """What the values of a piece of a column take at most."""
    piece = parquet.metadata.row_group(group).column(leaf)
    column = parquet.schema.column(leaf)
    if column.physical_type != "BYTE_ARRAY":
        return float(piece.num_values * max(_BYTES_OF_NUMBER, column.length))
    has_dictionary = any("DICTIONARY" in encoding for encoding in piece.encodings)
    return float("inf") if has_dictionary and not is_by_dictionary else float(piece.total_uncompressed_size)


def _decoded(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Values for their numbers in a dictionary, in parts that do not become too large."""
    if batch.num_rows > 1 and sum(map(_decoded_bytes, batch.columns)) > _BATCH_BYTES:
        half = batch.num_rows // 2
        yield from _decoded(batch.slice(0, half))
        yield from _decoded(batch.slice(half))
        return
    columns = [column.dictionary_decode() if pt.is_dictionary(column.type) else column for column in batch.columns]
    yield pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


def _decoded_bytes(column: pa.Array) -> int:
    if not pt.is_dictionary(column.type) or not len(column.dictionary):
        return 0
    lengths = pc.fill_null(pc.binary_length(column.dictionary), 0).to_numpy(zero_copy_only=False)
    return int(lengths[column.indices.drop_null().to_numpy(zero_copy_only=False)].sum(dtype=np.int64))


def _merged(batches: Iterator[pa.RecordBatch], batch_rows: int) -> Iterator[pa.RecordBatch]:
    """Single rows in batches again, as long as they are small."""
    held: list[pa.RecordBatch] = []
    num_bytes = 0
    for batch in batches:
        if held and (len(held) == batch_rows or num_bytes + batch.nbytes > _BATCH_BYTES):
            yield from pa.Table.from_batches(held).combine_chunks().to_batches()
            held, num_bytes = [], 0
        held.append(batch)
        num_bytes += batch.nbytes
    if held:
        yield from pa.Table.from_batches(held).combine_chunks().to_batches()
