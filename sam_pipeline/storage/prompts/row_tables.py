"""Rows that were read one by one, as tables of bounded size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pyarrow as pa

from sam_pipeline.storage.prompts.prompt_rows import KEYED_PROMPTS
from sam_pipeline.storage.prompts.prompt_values import Row

TABLE_ROWS = 65_536
"""The most rows of a table."""
MASKS_AT_ONCE = 256
"""The most mask prompts of a table: each is 256 KiB."""


def row_tables(rows: Iterable[Row]) -> Iterator[pa.Table]:
    """Tables of KEYED_PROMPTS with up to TABLE_ROWS rows, MASKS_AT_ONCE of them with a mask."""
    some: list[Row] = []
    num_masks = 0
    for row in rows:
        some.append(row)
        num_masks += row.get("mask_input") is not None
        if len(some) == TABLE_ROWS or num_masks == MASKS_AT_ONCE:
            yield pa.Table.from_pylist(some, schema=KEYED_PROMPTS)
            some, num_masks = [], 0
    if some:
        yield pa.Table.from_pylist(some, schema=KEYED_PROMPTS)
