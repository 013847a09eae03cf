"""Images in the rows of Parquet files, as their bytes; also as Hugging Face's datasets have them, in a struct.

Planning reads footers only, and what is to be kept; the bytes are left to the workers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pyarrow.types as pt

from sam_pipeline.errors import InputError, SamPipelineError
from sam_pipeline.safety.clean_text import one_line
from sam_pipeline.storage.inputs.containers.parquet_reading import NullRows, open_parquet, read_columns, why_null
from sam_pipeline.storage.inputs.file_kinds import HEAD_BYTES, is_image_data
from sam_pipeline.storage.inputs.kept_values import MAX_OBJECT_BYTES, check_keepable, json_objects
from sam_pipeline.storage.inputs.lists.manifest import URI_COLUMNS
from sam_pipeline.storage.inputs.lists.manifest_rows import holds_text
from sam_pipeline.storage.inputs.source_object import SOURCE_SCHEMA, SourceObject, SourceOptions, source_table
from sam_pipeline.storage.objects.object_reading import input_errors
from sam_pipeline.storage.objects.retrying import retried

_IMAGE_NAMES = ("image", "img", "bytes", "jpg", "png", "content")
_ROWS_AT_ONCE = 100_000
_ROW_DIGITS = 9
_FILES_AT_ONCE = 8
_SAMPLED_ROWS = 4


class _UnusableError(Exception):
    """A file lacks the columns that were asked for; another file may have them."""


def is_parquet_of_images(uri: str, source_options: SourceOptions) -> bool:
    """Whether a Parquet file holds images, by its columns; else it is a list of their URIs.

    Bytes beside a column of URIs may be anything, such as a hash, unless their column has a usual name for images.

    Raises:
        InputError: the file cannot be read.
        StorageUnavailableError: the storage did not answer for two minutes.
    """
    with input_errors(f"read {uri}"):
        try:
            schema = retried(partial(_schema, uri, source_options), what=f"read {uri}")
        except FileNotFoundError:
            raise InputError(f"input not found: {uri}") from None
    candidates = _candidates(schema)
    if source_options.images.input_column is not None:
        return source_options.images.input_column in candidates
    names_uris = any(name in schema.names and holds_text(schema.field(name).type) for name in URI_COLUMNS)
    return any(not names_uris or name in _IMAGE_NAMES or path != name for name, path in candidates.items())


def parquet_images(containers: Iterable[SourceObject], source_options: SourceOptions) -> Iterator[pa.Table]:
    """Plan every row of Parquet files as an image.

    An image is named `part.parquet#000000017`, so that the order of the URIs is that of the rows, in which they are
    read, however many a file has or gets. Several footers are read in parallel.

    Null images are found here only where the statistics say that a whole row group is null; the reader finds others.

    Args:
        containers: Parquet files, as a listing saw them.
        source_options: images.input_column names the column with the images. Default: the only one with bytes, else the
            only one with a usual name, else the only one whose first values begin as images do. The columns in
            images.keep go into extra.

    Yields:
        Tables of SOURCE_SCHEMA of at most 100,000 rows, in the order of the files and their rows. A file that is
        damaged, or has not the columns, is one row with an error, named `part.parquet#`.

    Raises:
        InputError: no file could be read; or a column to be kept holds bytes.
        StorageUnavailableError: the storage did not answer for two minutes.
    """
    num_files = num_failures = 0
    first_failure = ""
    for container, planned in _planned(containers, source_options):
        num_files += 1
        if isinstance(planned, Exception):
            num_failures += 1
            first_failure = first_failure or f"{container.uri}: {one_line(planned)}"
            yield source_table([SourceObject(f"{container.uri}#", None, container.etag, error=one_line(planned))])
        else:
            yield from planned.tables(container)
    if first_failure and num_failures == num_files:
        others = f"; and so for all {num_files} files" if num_files > 1 else ""
        raise InputError(f"no images can be read from {first_failure}{others}")


@dataclass(frozen=True)
class _Planned:
    """What planning took from one file."""

    num_rows: int
    column: str
    nulls: list[NullRows]
    extra: list[pa.Array] | None
    """JSON objects, for each 100,000 rows."""

    def tables(self, container: SourceObject) -> Iterator[pa.Table]:
        """The rows as images."""
        for number, first in enumerate(range(0, self.num_rows, _ROWS_AT_ONCE)):
            rows = pa.array(range(first, min(first + _ROWS_AT_ONCE, self.num_rows)), pa.int64())
            digits = pc.utf8_lpad(rows.cast(pa.string()), _ROW_DIGITS, padding="0")
            columns: dict[str, Any] = {field.name: pa.nulls(len(rows), field.type) for field in SOURCE_SCHEMA}
            columns["uri"] = pc.binary_join_element_wise(f"{container.uri}#", digits, "")
            columns["location"] = self._locations(container.uri, rows)
            if container.etag is not None:
                columns["etag"] = pa.repeat(container.etag, len(rows))
            if self.nulls:
                columns["error"] = self._errors(first, len(rows))
            if self.extra is not None:
                columns["extra"] = self.extra[number]
            yield pa.table(columns, schema=SOURCE_SCHEMA)

    def _locations(self, container: str, rows: pa.Array) -> pa.Array:
        values = [
            *(pa.repeat(container, len(rows)), pa.repeat("parquet", len(rows)), rows),
            *(pa.nulls(len(rows), pa.int64()), pa.repeat(self.column, len(rows))),
        ]
        return pa.StructArray.from_arrays(values, fields=list(SOURCE_SCHEMA.field("location").type))

    def _errors(self, first: int, num_rows: int) -> pa.Array:
        errors: list[str | None] = [None] * num_rows
        for null in self.nulls:
            for row in range(max(first, null.first), min(first + num_rows, null.first + len(null.reasons))):
                errors[row - first] = null.reasons[row - null.first]
        return pa.array(errors, pa.string())


def _planned(
    containers: Iterable[SourceObject], source_options: SourceOptions
) -> Iterator[tuple[SourceObject, _Planned | Exception]]:
    """The files in their order, of which a few are read ahead."""
    ahead: deque[tuple[SourceObject, Future[_Planned | Exception]]] = deque()
    with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
        for container in containers:
            ahead.append((container, pool.submit(_plan_or_say, container, source_options)))
            if len(ahead) > _FILES_AT_ONCE:
                oldest, planned = ahead.popleft()
                yield oldest, planned.result()
        while ahead:
            oldest, planned = ahead.popleft()
            yield oldest, planned.result()


def _plan_or_say(container: SourceObject, source_options: SourceOptions) -> _Planned | Exception:
    try:
        return retried(partial(_plan, container.uri, source_options), what=f"read {container.uri}")
    except (SamPipelineError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001  of this file: others go on
        return error


def _plan(uri: str, source_options: SourceOptions) -> _Planned:
    with open_parquet(uri, source_options.storage) as parquet:
        column = _image_column(parquet, source_options.images.input_column)
        for name in source_options.images.keep:
            if name not in parquet.schema_arrow.names:
                raise _UnusableError(f"no column {name!r} to keep: there are {_names(parquet.schema_arrow)}")
            check_keepable(name, parquet.schema_arrow.field(name).type)
        extra = _kept(uri, source_options) if source_options.images.keep else None
        return _Planned(parquet.metadata.num_rows, column, why_null(parquet, column), extra)


def _kept(uri: str, source_options: SourceOptions) -> list[pa.Array]:
    keep = source_options.images.keep
    batches = read_columns(uri, dict.fromkeys(keep, MAX_OBJECT_BYTES + 1), _ROWS_AT_ONCE, source_options.storage)
    kept = [json_objects({name: batch.column(name) for name in keep}) for batch in batches]
    extra = pa.chunked_array(kept, pa.string())
    return [extra.slice(first, _ROWS_AT_ONCE).combine_chunks() for first in range(0, len(extra), _ROWS_AT_ONCE)]


def _schema(uri: str, source_options: SourceOptions) -> pa.Schema:
    with open_parquet(uri, source_options.storage) as parquet:
        schema: pa.Schema = parquet.schema_arrow
        return schema


def _image_column(parquet: pq.ParquetFile, asked_for: str | None) -> str:
    """The path of the column with the images: `bytes` or, in a struct, `image.bytes`.

    Raises:
        _UnusableError: naming the columns there are.
    """
    schema = parquet.schema_arrow
    candidates = _candidates(schema)
    if asked_for is not None:
        if asked_for not in candidates:
            what = "no bytes in" if asked_for in schema.names else "no"
            raise _UnusableError(f"{what} column {asked_for!r}: there are {_names(schema)}")
        return candidates[asked_for]
    if len(candidates) == 1:
        return next(iter(candidates.values()))
    usual = [path for name, path in candidates.items() if name in _IMAGE_NAMES]
    if len(usual) != 1:
        usual = [path for path in candidates.values() if _begins_with_images(parquet, path)]
    if len(usual) != 1:
        which = "none of its columns holds" if not candidates else f"{len(candidates)} of its columns hold"
        raise _UnusableError(f"{which} bytes; say which is of images with --input-column: there are {_names(schema)}")
    return usual[0]


def _begins_with_images(parquet: pq.ParquetFile, path: str) -> bool:
    """Whether the first bytes in a column that are not null are those of an image."""
    # One row at a time, as when they are read: of their sizes nothing is known.
    for batch in islice(parquet.iter_batches(1, columns=[path], use_threads=False), _SAMPLED_ROWS):
        column = batch.column(0)
        value = (column.field("bytes") if pt.is_struct(column.type) else column)[0]
        if value.is_valid and is_image_data(bytes(memoryview(value.as_buffer())[:HEAD_BYTES])):
            return True
    return False


def _candidates(schema: pa.Schema) -> dict[str, str]:
    """Columns that may hold images, by name, with the paths of their bytes."""
    found = {}
    for field in schema:
        if _is_bytes(field.type):
            found[field.name] = field.name
        elif pt.is_struct(field.type):
            index = field.type.get_field_index("bytes")
            if index >= 0 and _is_bytes(field.type.field(index).type):
                found[field.name] = f"{field.name}.bytes"
    return found


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pt.is_binary(kind) or pt.is_large_binary(kind) or pt.is_binary_view(kind))


def _names(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} ({'struct' if pt.is_struct(field.type) else field.type})" for field in schema)
