"""Reading the wanted columns of a manifest, in each of its formats, in batches of bounded size."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.types as pt

from sam_pipeline.storage.inputs.kept_values import (
    MAX_OBJECT_BYTES,
    check_keepable,
    checked_size,
    json_objects,
    json_text,
)
from sam_pipeline.storage.inputs.listing.files import IMAGE_SUFFIXES
from sam_pipeline.storage.inputs.lists.line_breaks import LineBreaks, RememberedEnd, long_row_errors
from sam_pipeline.storage.inputs.lists.named_uris import MAX_NAME_LENGTH, names_of
from sam_pipeline.storage.objects.bounded_parquet import bounded_parquet, column_batches

_BATCH_ROWS = 65_536
_BLOCK_BYTES = 4 << 20
_MAX_LINE_BYTES = 16 << 20
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_UTF_16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_DELIMITERS = (",", ";", "\t", "|")  # the first wins where there are as many of one as of another
_SAMPLED_ROWS = 100
_LINES = "path"

_decode = json.JSONDecoder().decode


@dataclass(frozen=True)
class WantedColumns:
    """The columns of a manifest that are read."""

    uris: str
    keep: tuple[str, ...]

    @property
    def all(self) -> list[str]:
        """Each once."""
        return list(dict.fromkeys([self.uris, *self.keep]))


FirstValues = Callable[[str], Sequence[object]]
"""The name of a column → its values in the first rows."""

Choose = Callable[[Mapping[str, bool | None], FirstValues], WantedColumns]
"""Columns by name, with whether they hold text or None where that cannot be said → those that are wanted."""

Rows = tuple[pa.Array, pa.Array | None]
"""Names as they stand there, with nulls; and what is kept of each row as a JSON object, if anything is."""


RowReader = Callable[[io.BufferedIOBase, Choose], Iterator[Rows]]
"""Reads a manifest of one format from its beginning, in order.

It raises what choose raises, InputError for a column that cannot be kept, ValueError for what the file holds, and the
errors of who reads the format.
"""


def parquet_rows(file: io.BufferedIOBase, choose: Choose) -> Iterator[Rows]:
    """Read Parquet, of which only the columns that are wanted. See RowReader."""
    schema = bounded_parquet(file, _BLOCK_BYTES).schema_arrow

    def first_values(name: str) -> list[object]:
        batch = next(column_batches(file, {name: MAX_NAME_LENGTH}, _SAMPLED_ROWS, _BLOCK_BYTES), None)
        return [] if batch is None else batch.column(0).to_pylist()

    columns = choose({field.name: holds_text(field.type) for field in schema}, first_values)
    for name in columns.keep:
        check_keepable(name, schema.field(name).type)
    lengths = dict.fromkeys(columns.keep, MAX_OBJECT_BYTES + 1)
    lengths[columns.uris] = max(lengths.get(columns.uris, 0), MAX_NAME_LENGTH + 1)
    for batch in column_batches(file, lengths, _BATCH_ROWS, _BLOCK_BYTES):
        yield _rows(batch, columns)


def csv_rows(file: io.BufferedIOBase, choose: Choose) -> Iterator[Rows]:
    """Read CSV with a header, every value as text: a type guessed from the first rows may fail later. See RowReader.

    Values are divided by commas, semicolons, tabs or bars, whichever the header has most of.
    """
    head = file.read(_BLOCK_BYTES)
    header = re.split(rb"[\r\n]", head.removeprefix(_BYTE_ORDER_MARK), maxsplit=1)[0].decode(errors="replace")
    unquoted = re.sub(r'"[^"]*"', "", header)
    return _delimited_rows(file, head, choose, max(_DELIMITERS, key=unquoted.count))


def tab_separated_rows(file: io.BufferedIOBase, choose: Choose) -> Iterator[Rows]:
    """Read values divided by tabs, as csv_rows does. See RowReader."""
    return _delimited_rows(file, file.read(_BLOCK_BYTES), choose, "\t")


def _delimited_rows(file: io.BufferedIOBase, head: bytes, choose: Choose, delimiter: str) -> Iterator[Rows]:
    _check_encoding(head)
    with long_row_errors():
        yield from _delimited_columns(file, head, choose, delimiter)


def _delimited_columns(file: io.BufferedIOBase, head: bytes, choose: Choose, delimiter: str) -> Iterator[Rows]:
    parsing = pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)  # captions have them
    # From a copy: Arrow reads ahead in a thread of its own, which may not have stopped when the file begins anew.
    with pyarrow.csv.open_csv(io.BytesIO(head), parse_options=parsing) as reader:
        first = next(iter(reader), None)
        columns = choose(
            _csv_columns(reader.schema),
            lambda name: [] if first is None else first.column(name)[:_SAMPLED_ROWS].to_pylist(),
        )
        names = reader.schema.names
    file.seek(0)
    content, breaks = RememberedEnd(file), LineBreaks()
    # The others are looked at for line breaks alone, and may be of any encoding.
    types = dict.fromkeys(names, pa.binary()) | dict.fromkeys(columns.all, pa.string())
    with pyarrow.csv.open_csv(
        pa.PythonFile(content, mode="r"),
        pyarrow.csv.ReadOptions(block_size=_BLOCK_BYTES),
        parsing,
        pyarrow.csv.ConvertOptions(include_columns=list(types), column_types=types),
    ) as reader:
        for batch in reader:
            breaks.add(batch)
            yield _rows(batch, columns)
    if names.count(names[-1]) == 1:  # else the last column that was read is another
        breaks.check_end(content.end)
    breaks.log()


def line_rows(file: io.BufferedIOBase, choose: Choose) -> Iterator[Rows]:
    """Read a name a line, as one column called path; blank lines are no rows. See RowReader."""
    columns: WantedColumns | None = None
    for block in line_blocks(file):
        # Divided as bytes: in text there are other line ends, such as U+2028, which names may have.
        lines = [line.strip() for line in block.splitlines()]
        names = [line.decode() for line in lines if line]
        if columns is None:
            _check_lines(names[:_SAMPLED_ROWS])
            columns = choose({_LINES: True}, {_LINES: names[:_SAMPLED_ROWS]}.__getitem__)
        yield _rows(pa.record_batch({_LINES: pa.array(names, pa.string())}), columns)


def json_line_rows(file: io.BufferedIOBase, choose: Choose) -> Iterator[Rows]:
    """Read JSON Lines; blank lines are no rows. See RowReader.

    The columns are the fields in the first four megabytes. Without any to keep, Arrow reads it. Arrow would take a date
    in a string for a time and a large integer for a float, so what is kept is read and written by Python's json, at
    some microseconds a row.
    """
    columns: WantedColumns | None = None
    num_lines = 0
    for block in line_blocks(file):
        if columns is None:
            records = records_of_lines(block, num_lines)
            columns = choose(_json_columns(records), partial(_values, records[:_SAMPLED_ROWS]))
        yield _json_rows(block, columns, num_lines)
        num_lines += block.count(b"\n")


def _rows(batch: pa.RecordBatch, columns: WantedColumns) -> Rows:
    names = batch.column(columns.uris)
    if pt.is_dictionary(names.type):
        names = names.dictionary_decode()
    extra = json_objects({name: batch.column(name) for name in columns.keep}) if columns.keep else None
    return names.cast(pa.string()), extra


def holds_text(kind: pa.DataType) -> bool | None:
    """Whether a column of this type holds text; None where all of it is null."""
    if pt.is_dictionary(kind):
        kind = kind.value_type
    if pt.is_null(kind):
        return None
    return bool(pt.is_string(kind) or pt.is_large_string(kind) or pt.is_string_view(kind))


def _csv_columns(schema: pa.Schema) -> dict[str, bool | None]:
    if any("://" in name or name.startswith("/") or name.lower().endswith(IMAGE_SUFFIXES) for name in schema.names):
        # Not shown: it may hold a credential.
        raise ValueError(
            "the first line of a CSV manifest must name its columns, but holds what seems an image: put a line such as "
            "`uri` before it, or call a list without columns .txt"
        )
    return {field.name: pt.is_string(field.type) or None for field in schema}


def _check_lines(names: Sequence[str]) -> None:
    """Refuse lines such as `a.jpg 7`, as lists for classifiers have them."""
    labelled = [
        name
        for name in names
        if re.split(r"[\s,;]", name)[0].lower().endswith(IMAGE_SUFFIXES) and not name.lower().endswith(IMAGE_SUFFIXES)
    ]
    if 2 * len(labelled) > len(names):
        raise ValueError(
            f"each line must be one path, but some hold more, such as {labelled[0]!r}: keep the paths alone, or give "
            "the list a header and call it .csv"
        )


def _check_encoding(head: bytes) -> None:
    if head.startswith(_UTF_16_MARKS):
        raise ValueError("its text is UTF-16: save it as UTF-8")


def line_blocks(file: io.BufferedIOBase) -> Iterator[bytes]:
    """Whole lines, some megabytes at a time."""
    rest = b""
    is_first = True
    while data := file.read(_BLOCK_BYTES):
        if is_first:
            _check_encoding(data)
            data, is_first = data.removeprefix(_BYTE_ORDER_MARK), False
        head, newline, tail = data.rpartition(b"\n")
        if newline:
            yield rest + head + newline
            rest = tail
        else:
            rest += tail
        if len(rest) > _MAX_LINE_BYTES:
            raise ValueError(f"a line of more than {_MAX_LINE_BYTES >> 20} MB")
    if rest:
        yield rest


def records_of_lines(block: bytes, num_lines_before: int) -> list[dict[str, Any]]:
    """The objects of some lines.

    Raises:
        ValueError: a line is something else.
    """
    records = []
    for number, line in enumerate(block.split(b"\n"), num_lines_before + 1):
        if not line.strip():
            continue
        try:
            record = _decode(line.decode())
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict):
            raise ValueError(f"line {number} is not a JSON object")
        records.append(record)
    return records


def _json_columns(records: Sequence[Mapping[str, Any]]) -> dict[str, bool | None]:
    columns: dict[str, bool | None] = {}
    for record in records:
        for name, value in record.items():
            known = columns.setdefault(name, None)
            if value is not None and not known:
                columns[name] = isinstance(value, str)
    return columns


def _values(records: Sequence[Mapping[str, Any]], name: str) -> list[Any]:
    return [record.get(name) for record in records]


def _json_rows(block: bytes, columns: WantedColumns, num_lines_before: int) -> Rows:
    if not columns.keep:
        try:
            return _arrow_json_names(block, columns.uris), None
        except pa.ArrowInvalid:
            pass  # one row in it is wrong, and Arrow does not say which
    records = records_of_lines(block, num_lines_before)
    names = names_of(record.get(columns.uris) for record in records)
    if not columns.keep:
        return names, None
    kept = [json_text({name: record.get(name) for name in columns.keep}) for record in records]
    return names, checked_size(pa.array(kept, pa.string()))


def _arrow_json_names(block: bytes, column: str) -> pa.Array:
    parse = pyarrow.json.ParseOptions(
        explicit_schema=pa.schema([(column, pa.string())]), unexpected_field_behavior="ignore"
    )
    read = pyarrow.json.ReadOptions(block_size=len(block) + 1)  # one piece
    return pyarrow.json.read_json(pa.BufferReader(block), read, parse).column(column).combine_chunks()
