"""Where an output keeps its tables."""

from __future__ import annotations

import os
from typing import Any, Literal, get_args

from sam_pipeline.errors import ConfigError
from sam_pipeline.storage.objects.filesystem import StorageOptions, join_uri, open_filesystem

TableName = Literal["images", "prompts", "masks"]
"""The folder of a table: the plan, its prompts, or the results."""


def table_uri(output: str, name: TableName) -> str:
    """The folder of one table of an output."""
    return join_uri(output, name)


def table_uris(output: str) -> tuple[str, ...]:
    """The folders of all tables of an output."""
    return tuple(table_uri(output, name) for name in get_args(TableName))


def check_apart(place: str, output: str, storage_options: StorageOptions) -> None:
    """Refuse to write where a run keeps its tables, or will: a start would find files of others there.

    Args:
        place: a file or folder, as absolute_uri makes it.
        output: of the run.
        storage_options: of fsspec.

    Raises:
        ConfigError: place is the folder of a table, whether it is there or not, or lies in one.
    """
    filesystem, path = _real_place(place, storage_options)
    for uri in table_uris(output):
        other, folder = _real_place(uri, storage_options)
        if isinstance(filesystem, type(other)) and f"{path}/".startswith(f"{folder}/"):
            raise ConfigError(f"{place} lies in a table of {output}; give a place of its own")


def _real_place(uri: str, storage_options: StorageOptions) -> tuple[Any, str]:
    """The filesystem and the path in it, through links."""
    filesystem, path = open_filesystem(uri, storage_options)
    return filesystem, (os.path.realpath(path) if "file" in filesystem.protocol else path.rstrip("/"))
