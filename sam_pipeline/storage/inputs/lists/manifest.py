"""Images named by a manifest: a Parquet, CSV or JSON Lines file with an image a row, or a text file with one a line."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial

import pyarrow as pa

from sam_pipeline.errors import InputError
from sam_pipeline.safety.clean_text import without_credentials
from sam_pipeline.storage.inputs.containers.parquet_reading import PARQUET_SUFFIXES
from sam_pipeline.storage.inputs.listing.files import IMAGE_SUFFIXES
from sam_pipeline.storage.inputs.lists.manifest_rows import (
    FirstValues,
    RowReader,
    WantedColumns,
    csv_rows,
    json_line_rows,
    line_rows,
    parquet_rows,
    tab_separated_rows,
)
from sam_pipeline.storage.inputs.lists.named_uris import named_uris
from sam_pipeline.storage.inputs.source_object import SourceOptions
from sam_pipeline.storage.objects.decompression import gunzipped
from sam_pipeline.storage.objects.object_reading import input_errors, open_object

_TEXT_READERS: dict[str, RowReader] = {
    ".csv": csv_rows,
    ".tsv": tab_separated_rows,
    ".jsonl": json_line_rows,
    ".ndjson": json_line_rows,
    ".txt": line_rows,
    ".lst": line_rows,
}
_READERS: dict[str, RowReader] = {**dict.fromkeys(PARQUET_SUFFIXES, parquet_rows), **_TEXT_READERS}

TEXT_MANIFEST_SUFFIXES = tuple(f"{suffix}{zipped}" for suffix in _TEXT_READERS for zipped in ("", ".gz"))
MANIFEST_SUFFIXES = (*PARQUET_SUFFIXES, *TEXT_MANIFEST_SUFFIXES)

URI_COLUMNS = ("uri", "url", "image_uri", "image_path", "path", "file_name", "image", "key")
"""Usual names of columns that name images, in lists and in prompts, in the order in which they are looked for. In
prompts the first that holds text or a whole number counts, in each row by itself; in lists the first whose values look
like names, or else the first."""

# A scheme, the suffix of an image, or a path without spaces: text that names an image. Captions have none of these.
_NAME = re.compile(
    rf"[A-Za-z][A-Za-z0-9+.-]*://|[^\n]*(?:{'|'.join(map(re.escape, IMAGE_SUFFIXES))})$|[^\s/]*/\S*$", re.IGNORECASE
)
_TABLE_ROWS = 65_536
_MAX_NAMES_SHOWN = 20
_MAX_VALUE_SHOWN = 60


def manifest_images(uri: str, source_options: SourceOptions) -> Iterator[pa.Table]:
    """Read a manifest from its beginning to its end, holding one batch of its rows at a time.

    A name in it is a URI, an absolute path, or relative to image_root, or else to the manifest's folder. Of a text file
    every line that is not blank is a name; it counts as a table with one column, path. A row whose
    name is missing, or must not be followed, becomes an image with an error, called manifest#row-N with N from 0.

    Args:
        uri: of a file that ends in one of MANIFEST_SUFFIXES, in any case.
        source_options: all are used. What is kept of a CSV file is text, since it has no types.

    Yields:
        Tables of SOURCE_SCHEMA with up to 65,536 rows, in the manifest's order.

    Raises:
        InputError: nothing there, not of its format, without rows, or without a column that is asked for.
        ConfigError: of image_root.
        StorageUnavailableError: the storage did not answer for two minutes.
    """
    naming = named_uris(uri, source_options)
    suffix = uri.lower().removesuffix(".gz")
    read = next((reader for ending, reader in _READERS.items() if suffix.endswith(ending)), None)
    if read is None:
        raise InputError(f"not a manifest: {uri} does not end in one of {', '.join(MANIFEST_SUFFIXES)}")
    num_rows = 0
    with open_object(uri, source_options.storage) as file, input_errors(f"read {uri}"):
        content = gunzipped(file) if uri.lower().endswith(".gz") else file
        for names, extra in read(content, partial(_wanted_columns, uri, source_options)):
            for first in range(0, len(names), _TABLE_ROWS):
                some = names.slice(first, _TABLE_ROWS)
                yield naming.table(some, num_rows, None if extra is None else extra.slice(first, _TABLE_ROWS))
                num_rows += len(some)
    if num_rows == 0:
        raise InputError(f"no images in {uri}: it has no rows")


def shown_names(columns: Collection[str]) -> str:
    """The columns there are, or the first of them, for a message."""
    shown = ", ".join(map(repr, list(columns)[:_MAX_NAMES_SHOWN])) or "none"
    return shown if len(columns) <= _MAX_NAMES_SHOWN else f"{shown} and {len(columns) - _MAX_NAMES_SHOWN} more"


def _wanted_columns(
    uri: str, source_options: SourceOptions, columns: Mapping[str, bool | None], first_values: FirstValues
) -> WantedColumns:
    """Choose among the columns there are.

    Args:
        uri: of the manifest, for messages.
        source_options: images.input_column and images.keep are used.
        columns: by name, whether they hold text; None where that cannot be said.
        first_values: of a column, to be looked at where none is named.

    Raises:
        InputError: there is none of that name, or none to be taken for the one with the URIs.
    """
    there = shown_names(columns)
    asked_for = [
        *([] if source_options.images.input_column is None else [source_options.images.input_column]),
        *source_options.images.keep,
    ]
    for name in asked_for:
        if name not in columns:
            raise InputError(f"no column {name!r} in {uri}; its columns: {there}")
    chosen = source_options.images.input_column or _column_of_names(uri, columns, first_values)
    if columns[chosen] is False:
        raise InputError(f"column {chosen!r} of {uri} holds no text; its columns: {there}")
    return WantedColumns(chosen, source_options.images.keep)


def _column_of_names(uri: str, columns: Mapping[str, bool | None], first_values: FirstValues) -> str:
    """The column that holds names of images, by what it is called and by its first values."""
    usual = [name for name in URI_COLUMNS if columns.get(name, False) is not False]
    if named := [name for name in usual if _are_names(first_values(name))]:
        return named[0]
    if usual:  # numbers, names without a suffix: the first images will tell
        return usual[0]
    remedy = f"say which with --input-column; its columns: {shown_names(columns)}"
    # Beside a column that is called as one of URIs, but holds numbers, another is not taken.
    text = (
        [] if any(name in columns for name in URI_COLUMNS) else [name for name, is_text in columns.items() if is_text]
    )
    named = [name for name in text if _are_names(first_values(name))]
    if len(named) == 1:
        return named[0]
    if len(text) != 1:
        raise InputError(f"cannot tell which column of {uri} holds the URIs: {remedy}")
    first = next((value for value in first_values(text[0]) if value), "")
    shown = without_credentials(textwrap.shorten(str(first), _MAX_VALUE_SHOWN, placeholder="…"))
    raise InputError(f"no column of {uri} seems to hold names of images: {text[0]!r} begins with {shown!r}; {remedy}")


def _are_names(values: Sequence[object]) -> bool:
    """Whether most of some values seem to be names of images."""
    texts = [value.strip() for value in values if isinstance(value, str) and value.strip()]
    return bool(texts) and 2 * sum(_NAME.match(text) is not None for text in texts) >= len(texts)
