"""What must not stand where a run keeps its tables: files of others."""

from __future__ import annotations

from sam_pipeline.errors import OutputError
from sam_pipeline.storage.inputs.listing.store_listing import folder_names
from sam_pipeline.storage.layout import table_uris
from sam_pipeline.storage.objects.filesystem import StorageOptions, open_filesystem
from sam_pipeline.storage.objects.retrying import retried
from sam_pipeline.storage.tables.delta import open_table, output_errors, table_metadata
from sam_pipeline.storage.tables.schema import PROMPTS_SCHEMA


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


def _first_foreign_name(uri: str, storage_options: StorageOptions) -> str | None:
    """A name in a folder without a table; what is hidden does not count, nor the log of a table that is being made."""
    filesystem, path = open_filesystem(uri, storage_options)

    def look() -> str | None:
        names = folder_names(filesystem, path)
        return next((name for name in names if not name.startswith(".") and name != "_delta_log"), None)

    with output_errors(uri):
        return retried(look, what=f"list {uri}")
