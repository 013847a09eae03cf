"""Where a run keeps its tables, and what must not stand there: files of others, or the images themselves."""

from __future__ import annotations

import os
from glob import has_magic

from sam_pipeline.errors import ConfigError, OutputError
from sam_pipeline.storage.inputs.listing.name_patterns import Below
from sam_pipeline.storage.inputs.listing.store_listing import folder_names
from sam_pipeline.storage.objects.filesystem import StorageOptions, join_uri, open_filesystem
from sam_pipeline.storage.objects.retrying import retried
from sam_pipeline.storage.tables.delta import open_table, output_errors, table_metadata
from sam_pipeline.storage.tables.delta_place import table_uri
from sam_pipeline.storage.tables.schema import PROMPTS_SCHEMA, TABLE_SCHEMAS


def table_uris(output: str) -> tuple[str, ...]:
    """The folders of an output's tables."""
    return tuple(table_uri(output, name) for name in TABLE_SCHEMAS)


def check_output(output: str, storage_options: StorageOptions) -> None:
    """Refuse an output in which something else stands where a table is, or would be.

    Hidden files (.DS_Store) may be there, and anything beside a table that exists: nothing of it is ever touched.

    Raises:
        OutputError: something does, or the place cannot be read.
        StorageUnavailableError: storage did not answer.
    """
    for uri in table_uris(output):
        table = open_table(uri, storage_options)
        if table is None:
            if (name := _first_foreign_name(uri, storage_options)) is not None:
                raise OutputError(
                    f"{uri} holds {name!r} and no table of this program, which would keep one there; "
                    "use another output, or move what is there"
                )
        # A table of prompts has no metadata.
        elif [field.name for field in table.schema().fields] != PROMPTS_SCHEMA.names:
            table_metadata(table)  # raises for a table of another program


def check_apart(input_uri: str, output: str, storage_options: StorageOptions) -> None:
    """Refuse an output whose tables would lie among the images of the input.

    An output in a folder of its own below the input is fine: listing leaves its tables out.

    Args:
        input_uri: a folder or prefix, a glob, or a file.
        output: folder of the run.
        storage_options: of fsspec.

    Raises:
        ConfigError: the input is the output itself, or lies where a table of it is.
    """
    protocol, path = _place(input_uri, storage_options)
    begins = [path, _resolved(protocol, Below(path, is_glob=True).root)] if has_magic(path) else [path]
    for uri in table_uris(output):
        if any(_is_at_or_below((protocol, begin), _place(uri, storage_options)) for begin in begins):
            raise ConfigError(f"the input {input_uri} lies where the output keeps a table ({uri}); use another output")
    if (protocol, path) == _place(output, storage_options):
        raise ConfigError(
            f"the output {output} is the folder of the images; use another output, such as {join_uri(output, 'run')}"
        )


def _place(uri: str, storage_options: StorageOptions) -> tuple[str, str]:
    """(kind of storage, path in it), the same for all names of one place."""
    filesystem, path = open_filesystem(uri, storage_options)
    protocol = filesystem.protocol if isinstance(filesystem.protocol, str) else filesystem.protocol[0]
    return protocol, _resolved(protocol, path)


def _resolved(protocol: str, path: str) -> str:
    return os.path.realpath(path) if protocol == "file" else path.rstrip("/")


def _is_at_or_below(place: tuple[str, str], folder: tuple[str, str]) -> bool:
    return place[0] == folder[0] and f"{place[1]}/".startswith(f"{folder[1].rstrip('/')}/")


def _first_foreign_name(uri: str, storage_options: StorageOptions) -> str | None:
    """A name in a folder without a table; what is hidden does not count, nor the log of a table that is being made."""
    filesystem, path = open_filesystem(uri, storage_options)

    def look() -> str | None:
        names = folder_names(filesystem, path)
        return next((name for name in names if not name.startswith(".") and name != "_delta_log"), None)

    with output_errors(uri):
        return retried(look, what=f"list {uri}")
