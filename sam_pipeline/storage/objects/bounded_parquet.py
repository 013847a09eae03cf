"""Parquet files in batches of bounded size, although a file of a kilobyte may stand for terabytes.

Rows may share one value of a dictionary, and a page of zeros shrinks to nothing. So neither the size of the file nor a
mean tells what a batch of rows takes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pyarrow.types as pt

# A footer takes twenty times as much in memory. One of 16 MiB describes a hundred thousand column chunks.
_MAX_FOOTER_BYTES = 2**24
# A page is read whole.
_MAX_PAGE_BYTES = 2**30

_BATCH_BYTES = 2**26
_GROUP_BYTES = 2**29
_BYTES_OF_NUMBER = 8


class _LimitedFile:
    """A file that refuses reads larger than a footer may be, and after the footer those larger than a page may be."""

    def __init__(self, file: Any) -> None:
        self._file, self.is_footer_read = file, False

    def read(self, size: int = -1) -> bytes:
        part, most = ("page", _MAX_PAGE_BYTES) if self.is_footer_read else ("footer", _MAX_FOOTER_BYTES)
        if size < 0 or size > most:
            raise ValueError(f"a {part} of {size} bytes, the limit is {most}")
        data: bytes = self._file.read(size)
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def bounded_parquet(file: Any, buffer_bytes: int, metadata: Any = None, **pyarrow_options: Any) -> pq.ParquetFile:
    """Read a Parquet file's footer; pages are read later.

    Args:
        file: as Python's files in binary mode.
        buffer_bytes: asked for at once when pages are read.
        metadata: the footer, if it was read before.
        pyarrow_options: of pyarrow.ParquetFile.

    Raises:
        ValueError: a footer of more than 16 MiB; when rows are read, a page of more than 1 GiB.
        OSError, pa.ArrowException: damaged, or whatever the storage says.
    """
    limited = _LimitedFile(file)
    # Not pre_buffer: it holds the column of a whole row group.
    parquet = pq.ParquetFile(limited, metadata=metadata, pre_buffer=False, buffer_size=buffer_bytes, **pyarrow_options)
    limited.is_footer_read = True
    return parquet


def column_batches(
    file: Any, columns: Mapping[str, int], batch_rows: int, buffer_bytes: int
) -> Iterator[pa.RecordBatch]:
    """Read columns from the first row to the last.

    Args:
        file: as Python's files in binary mode.
        columns: names of top-level columns, and how many characters of their texts are wanted: longer ones are cut.
        batch_rows: at most.
        buffer_bytes: asked for at once.

    Yields:
        Batches that take about 512 MiB at most (larger row groups are read row by row), of which 64 MiB in columns of
        text; or one row.

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
                yield from _decoded(_cut(batch, columns))
        else:
            yield from _merged(batches, columns, batch_rows)


def _leaves(parquet: pq.ParquetFile, columns: Mapping[str, int]) -> dict[str, int]:
    """The numbers of the leaf columns below some top-level columns, by path."""
    paths = [parquet.schema.column(index).path for index in range(len(parquet.schema))]
    return {path: index for index, path in enumerate(paths) if path.partition(".")[0] in columns or path in columns}


def _is_text(parquet: pq.ParquetFile, leaf: int) -> bool:
    column = parquet.schema.column(leaf)
    return bool(column.physical_type == "BYTE_ARRAY" and column.max_repetition_level == 0)


def _bytes_of(parquet: pq.ParquetFile, group: int, leaf: int, is_by_dictionary: bool) -> float:
    """The most bytes that the values of a column chunk may take in memory."""
    piece = parquet.metadata.row_group(group).column(leaf)
    column = parquet.schema.column(leaf)
    if column.physical_type != "BYTE_ARRAY":
        return float(piece.num_values * max(_BYTES_OF_NUMBER, column.length))
    has_dictionary = any("DICTIONARY" in encoding for encoding in piece.encodings)
    return float("inf") if has_dictionary and not is_by_dictionary else float(piece.total_uncompressed_size)


def _cut(batch: pa.RecordBatch, columns: Mapping[str, int]) -> pa.RecordBatch:
    names = batch.schema.names
    arrays = [_cut_texts(column, columns[name]) for name, column in zip(names, batch.columns, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, names=names)


def _cut_texts(column: pa.Array, length: int) -> pa.Array:
    if pt.is_dictionary(column.type):
        return pa.DictionaryArray.from_arrays(column.indices, _cut_texts(column.dictionary, length))
    is_text = pt.is_string(column.type) or pt.is_large_string(column.type)
    if is_text and (pc.max(pc.binary_length(column)).as_py() or 0) > length:
        return pc.utf8_slice_codeunits(column, 0, length)
    return column


def _decoded(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Replace dictionary indices by their values, in parts that do not become too large."""
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


def _merged(batches: Iterator[pa.RecordBatch], columns: Mapping[str, int], batch_rows: int) -> Iterator[pa.RecordBatch]:
    """Single rows in batches again, as long as they are small."""
    held: list[pa.RecordBatch] = []
    num_bytes = 0
    shortest = min(columns.values(), default=0)
    for batch in batches:
        row = _cut(batch, columns) if batch.nbytes > shortest else batch
        if held and (len(held) == batch_rows or num_bytes + row.nbytes > _BATCH_BYTES):
            yield from pa.Table.from_batches(held).combine_chunks().to_batches()
            held, num_bytes = [], 0
        held.append(row)
        num_bytes += row.nbytes
    if held:
        yield from pa.Table.from_batches(held).combine_chunks().to_batches()
