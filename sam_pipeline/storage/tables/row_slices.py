"""Rows in pieces that are bounded by what they take: an image may have no mask, or thousands."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa


def slices(rows: pa.Table, most_rows: int, most_bytes: int) -> Iterator[pa.Table]:
    """Cut rows into pieces, none of which is empty; nothing is copied.

    Args:
        rows: of any schema.
        most_rows: in a piece.
        most_bytes: of a piece in Arrow's memory; a single row may take more.
    """
    for first in range(0, rows.num_rows, most_rows):
        yield from _halved(rows.slice(first, most_rows), most_bytes)


def _halved(rows: pa.Table, most_bytes: int) -> Iterator[pa.Table]:
    if rows.num_rows <= 1 or rows.nbytes <= most_bytes:
        yield rows
        return
    half = rows.num_rows // 2
    yield from _halved(rows.slice(0, half), most_bytes)
    yield from _halved(rows.slice(half), most_bytes)
