"""What the log of the results alone says of a run: cheap, however many files there are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sam_pipeline.config.fingerprint import filters_of, idle_settings
from sam_pipeline.errors import FingerprintMismatchError, OutputError
from sam_pipeline.storage.layout import table_uri
from sam_pipeline.storage.objects.filesystem import StorageOptions
from sam_pipeline.storage.tables.delta import committed_files, open_table, table_metadata

Fingerprint = Mapping[str, Any]


@dataclass(frozen=True)
class RunHeader:
    """What the log alone says of a results table: cheap however many files there are."""

    num_images: int
    """Committed rows."""
    metadata: dict[str, str]


def read_header(output: str, storage_options: StorageOptions) -> RunHeader | None:
    """Read what was begun and how many images are done; None if it never started."""
    table = open_table(table_uri(output, "masks"), storage_options)
    if table is None:
        return None
    metadata = table_metadata(table)  # first: a table of another program has other columns
    return RunHeader(sum(file.num_rows for file in committed_files(table)), metadata)


def check_not_filtered(output: str, metadata: Mapping[str, str]) -> None:
    """Refuse to annotate images of a run that was filtered: they would have all their masks, beside chosen ones.

    Args:
        output: folder of the run.
        metadata: of its results.

    Raises:
        OutputError: it was filtered.
    """
    if filters := filters_of(json.loads(metadata["fingerprint"])):
        source = filters[-1]["source"]
        raise OutputError(
            f"{output} was filtered from {source}, so no image of it is annotated: extend, retry or annotate {source}, "
            "and filter it again into another folder"
        )


def check_fingerprint(stored: Fingerprint, wanted: Fingerprint) -> None:
    """Compare two fingerprints; a setting that has no effect in one of them is not compared.

    Raises:
        FingerprintMismatchError: naming each setting that differs.
    """
    differences = {
        name: (stored.get(name), wanted.get(name))
        for name in sorted({*stored, *wanted} - idle_settings(stored) - idle_settings(wanted))
        if stored.get(name) != wanted.get(name)
    }
    if differences:
        raise FingerprintMismatchError(differences)
