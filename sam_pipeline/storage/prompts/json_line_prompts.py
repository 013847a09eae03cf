"""Prompts from JSON Lines: an object a prompt."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from sam_pipeline.storage.inputs.lists.manifest_rows import line_blocks, records_of_lines
from sam_pipeline.storage.objects.decompression import gunzipped
from sam_pipeline.storage.objects.filesystem import StorageOptions
from sam_pipeline.storage.objects.object_reading import input_errors, open_object
from sam_pipeline.storage.prompts.prompt_rows import IMAGE_ID, KEY_COLUMNS, MakeRow, Row, key_columns, row_tables
from sam_pipeline.storage.prompts.prompt_values import text_key


def json_line_prompts(
    uri: str, storage_options: StorageOptions, make: MakeRow, *, are_regions: bool
) -> Iterator[pa.Table]:
    """Read JSON Lines; the fields in the first four megabytes must be those of prompts. See prompt_files.read_prompts.

    The prompt_id is the number of the object, from 0; blank lines do not count.
    """
    return row_tables(_rows(uri, storage_options, make, are_regions=are_regions))


def _rows(uri: str, storage_options: StorageOptions, make: MakeRow, *, are_regions: bool) -> Iterator[Row]:
    num_rows = 0
    for records in _records(uri, storage_options):
        if not num_rows and records:
            names = dict.fromkeys(name for record in records for name in record)
            key_columns(uri, dict.fromkeys(names, True), are_regions=are_regions)
        for number, record in enumerate(records, num_rows):
            name = next((name for name in KEY_COLUMNS if text_key(record.get(name)) is not None), None)
            key = None if name is None else record[name]
            yield make(key, number, record) | {"is_image_id": name == IMAGE_ID}
        num_rows += len(records)


def _records(uri: str, storage_options: StorageOptions) -> Iterator[list[dict[str, Any]]]:
    num_lines = 0
    with open_object(uri, storage_options) as file, input_errors(f"read {uri}"):
        content = gunzipped(file) if uri.lower().endswith(".gz") else file
        for block in line_blocks(content):
            yield records_of_lines(block, num_lines)
            num_lines += block.count(b"\n")
