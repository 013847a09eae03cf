"""Where an output keeps its tables."""

from __future__ import annotations

from typing import Literal, get_args

from sam_pipeline.storage.objects.filesystem import join_uri

TableName = Literal["images", "prompts", "masks"]
"""The folder of a table: the plan, its prompts, or the results."""


def table_uri(output: str, name: TableName) -> str:
    """The folder of one table of an output."""
    return join_uri(output, name)


def table_uris(output: str) -> tuple[str, ...]:
    """The folders of all tables of an output."""
    return tuple(table_uri(output, name) for name in get_args(TableName))
