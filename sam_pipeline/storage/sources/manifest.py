"""Images named by a manifest: a Parquet, CSV or JSON Lines file with one image a row."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from functools import partial

import pyarrow as pa

from sam_pipeline.clean_text import one_line
from sam_pipeline.errors import InputError, SamPipelineError
from sam_pipeline.storage.sources.decompression import gunzipped
from sam_pipeline.storage.sources.manifest_rows import (
    RowReader,
    WantedColumns,
    csv_rows,
    json_line_rows,
    parquet_rows,
)
from sam_pipeline.storage.sources.named_uris import named_uris
from sam_pipeline.storage.sources.object_reading import open_object
from sam_pipeline.storage.sources.parquet_reading import PARQUET_SUFFIXES
from sam_pipeline.storage.sources.source_options import SourceOptions

TEXT_MANIFEST_SUFFIXES = (".csv", ".csv.gz", ".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz")
MANIFEST_SUFFIXES = (*PARQUET_SUFFIXES, *TEXT_MANIFEST_SUFFIXES)

URI_COLUMNS = ("uri", "url", "path", "image", "image_uri", "image_path", "file_name", "key")
"""Where URIs are looked for, in this order, when no column is named; where there is none of these, the only text."""

_READERS: dict[str, RowReader] = {
    **dict.fromkeys(PARQUET_SUFFIXES, parquet_rows),
    ".csv": csv_rows,
    ".jsonl": json_line_rows,
    ".ndjson": json_line_rows,
}
_TABLE_ROWS = 65_536
_MAX_NAMES_SHOWN = 20


def manifest_images(uri: str, options: SourceOptions) -> Iterator[pa.Table]:
    """Read a manifest from its beginning to its end, holding some thousand rows of it at a time.

    A name in it is a URI, an absolute path, or relative to image_root, or else to the manifest's folder. A row whose
    name is missing, or must not be followed, becomes an image with an error, called manifest#row-N with N from 0.

    Args:
        uri: of a file that ends in one of MANIFEST_SUFFIXES, in any case.
        options: all are used. What is kept of a CSV file is text, since it has no types.

    Yields:
        Tables of SOURCE_SCHEMA with up to 65,536 rows, in the manifest's order.

    Raises:
        InputError: nothing there, not of its format, without rows, or without a column that is asked for.
        ConfigError: of image_root.
        StorageUnavailableError: the storage did not answer for two minutes.
    """
    naming = named_uris(uri, options)
    suffix = uri.lower().removesuffix(".gz")
    read = next((reader for ending, reader in _READERS.items() if suffix.endswith(ending)), None)
    if read is None:
        raise InputError(f"not a manifest: {uri} does not end in one of {', '.join(MANIFEST_SUFFIXES)}")
    num_rows = 0
    with open_object(uri, options.storage) as file:
        try:
            content = gunzipped(file) if uri.lower().endswith(".gz") else file
            for names, extra in read(content, partial(_wanted_columns, uri, options)):
                for first in range(0, len(names), _TABLE_ROWS):
                    some = names.slice(first, _TABLE_ROWS)
                    yield naming.table(some, num_rows, None if extra is None else extra.slice(first, _TABLE_ROWS))
                    num_rows += len(some)
        except SamPipelineError:
            raise
        except Exception as error:
            raise InputError(f"cannot read {uri}: {one_line(error)}") from error
    if num_rows == 0:
        raise InputError(f"no images in {uri}: it has no rows")


def shown_names(columns: Collection[str]) -> str:
    """The columns there are, or the first of them, for a message."""
    shown = ", ".join(map(repr, list(columns)[:_MAX_NAMES_SHOWN])) or "none"
    return shown if len(columns) <= _MAX_NAMES_SHOWN else f"{shown} and {len(columns) - _MAX_NAMES_SHOWN} more"


def _wanted_columns(uri: str, options: SourceOptions, columns: Mapping[str, bool | None]) -> WantedColumns:
    """Choose among the columns there are.

    Args:
        uri: of the manifest, for messages.
        options: column and keep are used.
        columns: by name, whether they hold text; None where that cannot be said.

    Raises:
        InputError: there is none of that name, or none to be taken for the one with the URIs.
    """
    there = shown_names(columns)
    asked_for = [*([] if options.column is None else [options.column]), *options.keep]
    for name in asked_for:
        if name not in columns:
            raise InputError(f"no column {name!r} in {uri}; its columns: {there}")
    chosen = options.column
    if chosen is None:
        text = [name for name, is_text in columns.items() if is_text]
        known = [name for name in URI_COLUMNS if name in columns]
        usable = [name for name in known if columns[name] is not False]
        # Beside a column of such a name another is not taken, even if it is the only one that holds text.
        chosen = next(iter(usable if known else text if len(text) == 1 else []), None)
        if chosen is None:
            raise InputError(f"cannot tell which column of {uri} holds the URIs: name it; its columns: {there}")
    if columns[chosen] is False:
        raise InputError(f"column {chosen!r} of {uri} holds no text; its columns: {there}")
    return WantedColumns(chosen, options.keep)
