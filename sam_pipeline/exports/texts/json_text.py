"""JSON made of Arrow columns: no mask becomes a Python object, which would take twenty times as long."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

Texts = list[Any]
"""JSON texts, one for each row, in pieces that follow each other: an array (N,) of strings without nulls, or a string
that is the same in every row. They are joined once, because to join is to copy."""


def json_objects(fields: Mapping[str, Texts], optional: Mapping[str, pa.Array] = MappingProxyType({})) -> Texts:
    """Objects, one for each row.

    Args:
        fields: the texts of their values by key; at least one.
        optional: numbers by key. A row that has none, or none that JSON has a word for, goes without the key.
    """
    pieces: Texts = []
    for number, (key, values) in enumerate(fields.items()):
        pieces += [("," if number else "{") + json.dumps(key) + ":", *values]
    for key, numbers in optional.items():
        texts = _finite(numbers).cast(pa.string())
        if texts.null_count < len(texts):
            with_key = pc.binary_join_element_wise(pa.scalar(f",{json.dumps(key)}:"), texts, pa.scalar(""))
            pieces.append(pc.fill_null(with_key, ""))
    return [*pieces, "}"]


def json_lists(columns: Sequence[Texts]) -> Texts:
    """Lists of the same length, one for each row, of the texts of their values."""
    pieces: Texts = []
    for number, values in enumerate(columns):
        pieces += ["," if number else "[", *values]
    return [*pieces, "]"]


def json_numbers(values: pa.Array) -> Texts:
    """Numbers as JSON has them: null for null, and for what JSON has no word for, NaN and infinities."""
    return [pc.fill_null(_finite(values).cast(pa.string()), "null")]


def json_integers(values: Any) -> Texts:
    """Integers of NumPy."""
    return [pa.array(np.asarray(values, dtype=np.int64)).cast(pa.string())]


def json_counts(counts: pa.Array) -> Texts:
    """Counts of RLE as JSON strings: of the characters from 0 to o, the backslash alone means something to JSON."""
    return ['"', pc.replace_substring(counts, "\\", "\\\\"), '"']


def json_strings(texts: Sequence[str]) -> Texts:
    """Any text as JSON strings, of ASCII alone."""
    return [pa.array([json.dumps(text) for text in texts], pa.string())]


def rows_of(texts: Texts) -> pa.StringArray:
    """The text of each row, (N,)."""
    return pc.binary_join_element_wise(*_arguments(texts), pa.scalar(""))


def lines(texts: Texts) -> bytes:
    """The texts of all rows in one, with a comma and a line break between them.

    They must not be longer than 2 GiB together.
    """
    rows = rows_of([*texts, ",\n"])
    if not len(rows):
        return b""
    _, offsets, data = rows.buffers()
    end = int(np.frombuffer(offsets, np.int32)[len(rows)])
    return bytes(data.slice(0, end - 2))


def _arguments(texts: Texts) -> list[Any]:
    return [pa.scalar(piece) if isinstance(piece, str) else piece for piece in texts]


def _finite(values: pa.Array) -> pa.Array:
    """Numbers with null in the place of NaN and infinities."""
    return pc.if_else(pc.is_finite(values), values, None) if pa.types.is_floating(values.type) else values
