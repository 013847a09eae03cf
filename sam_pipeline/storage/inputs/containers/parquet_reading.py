"""Reading single rows of one column of Parquet files, in bounded memory."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, groupby
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.asyn import AsyncFileSystem

from sam_pipeline.safety.clean_text import one_line
from sam_pipeline.storage.inputs.source_object import MAX_IMAGE_BYTES
from sam_pipeline.storage.objects.bounded_parquet import bounded_parquet, column_batches
from sam_pipeline.storage.objects.filesystem import StorageOptions, open_filesystem
from sam_pipeline.storage.objects.range_file import ObjectFile
from sam_pipeline.storage.objects.retrying import is_denied, is_transient

PARQUET_SUFFIXES = (".parquet", ".pq")

# Asked for at once, so that a row group need not be in memory as a whole.
_BUFFER_BYTES = 8 << 20

_IS_NULL = "the image is null"
_IS_OUTSIDE = "the row names an image outside of the Parquet file, which is not supported"


class UnreadableRowError(Exception):
    """A row whose image is null, or damaged; the message says which."""


@dataclass(frozen=True)
class NullRows:
    """Neighbouring rows without an image, and why."""

    first: int
    """Number of the first in the file, from 0."""
    reasons: list[str]


@contextmanager
def open_parquet(uri: str, storage_options: StorageOptions) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file, local or remote, and read its footer.

    Raises:
        OSError, pa.ArrowException: damaged, or whatever the storage says.
    """
    with (
        _opened(uri, storage_options) as stream,
        bounded_parquet(stream, _BUFFER_BYTES, page_checksum_verification=True) as parquet,
    ):
        yield parquet


def read_columns(
    uri: str, columns: Mapping[str, int], batch_rows: int, storage_options: StorageOptions
) -> Iterator[pa.RecordBatch]:
    """Read some columns of a file from its first row to its last; see column_batches."""
    with _opened(uri, storage_options) as stream:
        yield from column_batches(stream, columns, batch_rows, _BUFFER_BYTES)


def _opened(uri: str, storage_options: StorageOptions) -> Any:
    filesystem, path = open_filesystem(uri, storage_options)
    if isinstance(filesystem, AsyncFileSystem):
        info = filesystem.info(path)
        if info["type"] != "file":
            raise IsADirectoryError(path)
        return ObjectFile(filesystem, path, info)
    # No cache: pyarrow asks for what it needs, and a cache would read on.
    return filesystem.open(path, "rb", cache_type="none")


def why_null(parquet: pq.ParquetFile, column: str) -> list[NullRows]:
    """Row groups in which every image is null by the statistics; other null images are found when they are read."""
    found, first = [], 0
    for group in range(parquet.num_row_groups):
        num_rows = parquet.metadata.row_group(group).num_rows
        if num_rows and _num_null(parquet, group, column) == num_rows:
            found.append(NullRows(first, _reasons(parquet, group, column)))
        first += num_rows
    return found


def read_parquet_rows(
    container: str, column: str, offsets: Sequence[int], storage_options: StorageOptions
) -> Iterator[tuple[int, bytes | Exception]]:
    """Read the images of some rows, each row group once and only as far as needed.

    Args:
        container: URI of the Parquet file.
        column: path of the column, `bytes` or `image.bytes`.
        offsets: of rows; see Location.offset. Where they do not ascend, the file is read again from there.
        storage_options: of the storage.

    Yields:
        Each offset, in the given order, with the bytes, or an UnreadableRowError where they are null, damaged, or not
        in the file.

    Raises:
        Exception: whatever the storage says, at any row; and a footer that is damaged.
    """
    with open_parquet(container, storage_options) as parquet:
        num_rows = (parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups))
        starts = list(accumulate(num_rows, initial=0))
        for (_, group), some in groupby(readings(offsets), lambda row: (row[0], bisect_right(starts, row[1]) - 1)):
            wanted = [row for _, row in some]
            if not 0 <= group < parquet.num_row_groups:
                yield from ((row, UnreadableRowError(f"no row {row}: there are {starts[-1]}")) for row in wanted)
                continue
            yield from _read_group(parquet, group, column, starts[group], wanted)


def readings(offsets: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Offsets, each after the number of the reading that it belongs to: a new one begins where they do not ascend."""
    number, last = 0, -1
    for offset in offsets:
        number += offset <= last
        last = offset
        yield number, offset


def _read_group(
    parquet: pq.ParquetFile, group: int, column: str, first: int, wanted: Sequence[int]
) -> Iterator[tuple[int, bytes | Exception]]:
    """Rows of one row group, which starts at row first of the file."""
    reasons: list[str] | None = None
    position, done = first, 0
    # One row at a time: how large the others are is not known before they are decoded.
    batches = parquet.iter_batches(1, row_groups=[group], columns=[column], use_threads=False)
    while done < len(wanted):
        try:
            value = _leaf(next(batches).column(0))[0]
        except StopIteration:
            error: Exception = UnreadableRowError("the row group has fewer rows than it says")
        except Exception as reason:
            if not _is_damage(reason):
                raise
            error = UnreadableRowError(f"the Parquet file is damaged here: {one_line(reason)}")
        else:
            if wanted[done] == position:
                image = _bytes_of(value)
                if image is None:
                    reasons = _reasons(parquet, group, column) if reasons is None else reasons
                    image = UnreadableRowError(reasons[position - first])
                while done < len(wanted) and wanted[done] == position:
                    yield position, image
                    done += 1
            position += 1
            continue
        yield from ((row, error) for row in wanted[done:])
        return


def _leaf(values: pa.Array) -> pa.Array:
    """The bytes, where the column is a struct with them."""
    return values.field(0) if pa.types.is_struct(values.type) else values


def _is_damage(error: Exception) -> bool:
    """Whether the error is pyarrow's about the data, and not one of the storage or the machine."""
    if isinstance(error, pa.ArrowException):
        return not isinstance(error, MemoryError)
    # pyarrow raises OSError as storage does, but without a number and without a cause.
    is_plain = type(error) is OSError and error.errno is None and error.__cause__ is None
    return is_plain and not is_transient(error) and not is_denied(error)


def _bytes_of(value: pa.Scalar) -> bytes | UnreadableRowError | None:
    if value.is_valid and (num_bytes := value.as_buffer().size) > MAX_IMAGE_BYTES:
        return UnreadableRowError(f"{num_bytes} bytes, the limit is {MAX_IMAGE_BYTES}")
    image: bytes | None = value.as_py()
    return image


def _reasons(parquet: pq.ParquetFile, group: int, column: str) -> list[str]:
    """For each row of a row group why its image would be null."""
    num_rows = parquet.metadata.row_group(group).num_rows
    path_of_struct = f"{column.removesuffix('.bytes')}.path"
    if not column.endswith(".bytes") or path_of_struct not in _leaf_paths(parquet):
        return [_IS_NULL] * num_rows
    batches = parquet.iter_batches(1, row_groups=[group], columns=[path_of_struct], use_threads=False)
    return [_IS_OUTSIDE if _leaf(batch.column(0))[0].as_py() else _IS_NULL for batch in batches]


def _num_null(parquet: pq.ParquetFile, group: int, column: str) -> int | None:
    statistics = _column_of_group(parquet, group, column).statistics
    return statistics.null_count if statistics is not None and statistics.has_null_count else None


def _column_of_group(parquet: pq.ParquetFile, group: int, column: str) -> Any:
    return parquet.metadata.row_group(group).column(_leaf_paths(parquet).index(column))


def _leaf_paths(parquet: pq.ParquetFile) -> list[str]:
    return [parquet.schema.column(index).path for index in range(len(parquet.schema))]
