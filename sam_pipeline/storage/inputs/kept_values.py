"""Columns of a table as one JSON object a row, for SourceObject.extra."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import date, datetime, time
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from sam_pipeline.errors import InputError

MAX_OBJECT_BYTES = 2**20
"""What may be kept of one row."""

_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode


def check_keepable(name: str, kind: pa.DataType) -> None:
    """Refuse a column whose values are not those of JSON.

    Raises:
        InputError: naming it and its type.
    """
    if _holds_bytes(kind):
        raise InputError(f"column {name!r} cannot be kept: its type is {kind}, which JSON has no place for")


def json_objects(columns: Mapping[str, pa.Array]) -> pa.Array:
    """One JSON object a row.

    Dates and times become ISO strings, decimals numbers with all their digits; nulls, infinity and NaN become null.

    Args:
        columns: by their names in the objects; all of one length.

    Returns:
        Strings, none of them null.

    Raises:
        InputError: see checked_size.
    """
    parts: list[Any] = []
    for name, values in columns.items():
        parts += [f"{', ' if parts else '{'}{json.dumps(name, ensure_ascii=False)}: ", _json_values(values)]
    return checked_size(pc.binary_join_element_wise(*parts, "}", ""))


def checked_size(objects: pa.Array) -> pa.Array:
    """The JSON objects of some rows, none of which is too large to be carried along with every image.

    Raises:
        InputError: one is larger than 1 MiB.
    """
    most = pc.max(pc.binary_length(objects)).as_py() or 0
    if most > MAX_OBJECT_BYTES:
        raise InputError(
            f"what is kept of a row takes {most} bytes, the limit is {MAX_OBJECT_BYTES}: keep other columns"
        )
    return objects


def json_text(value: Any) -> str:
    """A value as JSON, in characters as they are; in escapes where it holds half a surrogate pair, as JSON may."""
    try:
        text = _encode(value)
    except (TypeError, ValueError):  # a date, or a float that is not finite
        value = _plain(value)
        text = _encode(value)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value)
    return text


def _json_values(values: pa.Array) -> pa.Array:
    kind = values.type
    if pt.is_dictionary(kind):
        values, kind = values.dictionary_decode(), kind.value_type
    if pt.is_string(kind) or pt.is_large_string(kind) or pt.is_string_view(kind):
        written = _quoted(values.cast(pa.string()))
    elif pt.is_floating(kind):
        finite = pc.fill_null(pc.is_finite(values), False)
        written = pc.if_else(finite, values, pa.scalar(None, kind)).cast(pa.string())
    elif pt.is_date(kind) or pt.is_time(kind):
        written = _quoted(values.cast(pa.string()))
    elif pt.is_timestamp(kind):
        written = _quoted(pc.strftime(values, format="%Y-%m-%dT%H:%M:%S%z" if kind.tz else "%Y-%m-%dT%H:%M:%S"))
    elif pt.is_boolean(kind) or pt.is_integer(kind) or pt.is_decimal(kind):
        written = values.cast(pa.string())
    else:  # other types are rare
        written = pa.array([json_text(value) for value in values.to_pylist()], pa.string())
    return pc.fill_null(written, "null")


def _quoted(values: pa.Array) -> pa.Array:
    escaped = pc.replace_substring(pc.replace_substring(values, "\\", "\\\\"), '"', '\\"')
    quoted = pc.binary_join_element_wise('"', escaped, '"', "")
    has_controls = pc.fill_null(pc.match_substring_regex(values, r"[\x00-\x1f]"), False)
    if not pc.any(has_controls).as_py():
        return quoted
    others = [json_text(value) for value in values.filter(has_controls).to_pylist()]
    return pc.replace_with_mask(quoted, has_controls, pa.array(others, pa.string()))


def _plain(value: Any) -> Any:
    """A value of Arrow or JSON as what JSON has."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):  # maps are lists of pairs
        return [_plain(inner) for inner in value]
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    if value is None or isinstance(value, (str, int)):
        return value
    return str(value)


def _holds_bytes(kind: pa.DataType) -> bool:
    if pt.is_binary(kind) or pt.is_large_binary(kind) or pt.is_binary_view(kind) or pt.is_fixed_size_binary(kind):
        return True
    if pt.is_dictionary(kind):
        return _holds_bytes(kind.value_type)
    return any(_holds_bytes(kind.field(index).type) for index in range(kind.num_fields))
