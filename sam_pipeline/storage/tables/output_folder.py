"""What must not stand where a run keeps its tables: files of others."""

from __future__ import annotations

from collections.abc import Collection

from sam_pipeline.errors import OutputError
from sam_pipeline.storage.inputs.listing.store_listing import folder_names
from sam_pipeline.storage.layout import table_uris
from sam_pipeline.storage.objects.filesystem import StorageOptions, open_filesystem
from sam_pipeline.storage.objects.retrying import retried
from sam_pipeline.storage.tables.delta import open_table, output_errors, table_metadata
from sam_pipeline.storage.tables.reading.run_header import check_not_filtered
from sam_pipeline.storage.tables.schema import PROMPTS_SCHEMA


def check_output(output: str, storage_options: StorageOptions) -> None:
    """Refuse an output that no run may write to: it was filtered, or something else stands where a table would be.

    Hidden files (.DS_Store) may be there, and anything beside a table that exists: nothing of it is ever touched.

    Raises:
        OutputError: something does, or the place cannot be read.
        StorageUnavailableError: storage did not answer.
    """
    for uri in table_uris(output):
        table = open_table(uri, storage_options)
        # The log may be that of a table that is being made.
        if table is None and (name := _first_name(uri, storage_options, besides=["_delta_log"])) is not None:
            table = open_table(uri, storage_options)  # which another start may have made and filled meanwhile
            if table is None:
                raise OutputError(
                    f"{uri} holds {name!r} and no table of this program, which would keep one there; "
                    "use another output, or move what is there"
                )
        # A table of prompts has no metadata.
        if table is not None and [field.name for field in table.schema().fields] != PROMPTS_SCHEMA.names:
            metadata = table_metadata(table)  # raises for a table of another program
            if "fingerprint" in metadata:
                check_not_filtered(output, metadata)


def check_empty(output: str, storage_options: StorageOptions) -> None:
    """Refuse an output that holds anything; what is hidden does not count, nor the log of a table that is being made.

    Raises:
        OutputError: it does, or cannot be read.
        StorageUnavailableError: storage did not answer.
    """
    for uri in table_uris(output):
        if open_table(uri, storage_options) is not None:
            raise OutputError(f"{output} holds a run already; give a folder that is empty, or new")
        if (name := _first_name(uri, storage_options, besides=["_delta_log"])) is not None:
            raise OutputError(f"{uri} holds {name!r}; give a folder that is empty, or new")
    tables = {uri.rpartition("/")[2] for uri in table_uris(output)}
    if (name := _first_name(output, storage_options, besides=tables)) is not None:
        raise OutputError(f"{output} holds {name!r}; give a folder that is empty, or new")


def _first_name(uri: str, storage_options: StorageOptions, besides: Collection[str]) -> str | None:
    """A name in a folder, hidden ones and some others not counted."""
    filesystem, path = open_filesystem(uri, storage_options)

    def look() -> str | None:
        names = folder_names(filesystem, path)
        return next((name for name in names if not name.startswith(".") and name not in besides), None)

    with output_errors(uri):
        return retried(look, what=f"list {uri}")
