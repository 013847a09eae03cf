"""JSON made of Arrow columns: no mask becomes a Python object, which would take twenty times as long."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_NULL = pa.scalar("null")


def json_objects(fields: Mapping[str, pa.Array]) -> pa.Array:
    """Objects, one for each row.

    Args:
        fields: by key, the values as JSON texts, (N,) strings without nulls.

    Returns:
        (N,) strings.
    """
    pieces: list[Any] = []
    for number, (key, values) in enumerate(fields.items()):
        pieces += [pa.scalar(("{" if number == 0 else ",") + json.dumps(key) + ":"), values]
    return pc.binary_join_element_wise(*pieces, pa.scalar("}"), pa.scalar(""))


def json_lists(columns: Sequence[pa.Array]) -> pa.Array:
    """Lists of a fixed length, one for each row, of the texts of their values; null where any value is null."""
    pieces: list[Any] = [pa.scalar("[")]
    for number, column in enumerate(columns):
        pieces += [*([pa.scalar(",")] if number else []), column]
    return pc.binary_join_element_wise(*pieces, pa.scalar("]"), pa.scalar(""))


def json_numbers(values: pa.Array) -> pa.Array:
    """Numbers as JSON has them: null for null, and for what JSON has no word for, NaN and infinities."""
    if pa.types.is_floating(values.type):
        values = pc.if_else(pc.is_finite(values), values, None)
    return pc.fill_null(values.cast(pa.string()), _NULL)


def json_ascii(values: pa.Array) -> pa.Array:
    """Printable ASCII, as the counts of RLE are, as JSON strings."""
    escaped = pc.replace_substring(pc.replace_substring(values, "\\", "\\\\"), '"', '\\"')
    quote = pa.scalar('"')
    return pc.binary_join_element_wise(quote, escaped, quote, pa.scalar(""))


def json_strings(texts: Sequence[str]) -> pa.Array:
    """Any text as JSON strings, of ASCII alone."""
    return pa.array([json.dumps(text) for text in texts], pa.string())


def joined(texts: pa.Array) -> bytes:
    """All texts in one, with a comma and a line break between them."""
    if not len(texts):
        return b""
    lines = pc.binary_join_element_wise(texts, pa.scalar(",\n"), pa.scalar(""))
    _, offsets, data = lines.buffers()
    end = int(np.frombuffer(offsets, np.int32)[len(lines)])
    return bytes(data.slice(0, end - 2))


def integers(values: Any) -> pa.Array:
    """Numbers of NumPy as texts."""
    return pa.array(np.asarray(values)).cast(pa.string())
