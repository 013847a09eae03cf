"""Reading the frozen prompts of a plan."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow.compute as pc

from sam_pipeline.storage.layout import table_uri
from sam_pipeline.storage.objects.filesystem import StorageOptions
from sam_pipeline.storage.tables.fenced_table import FencedTable
from sam_pipeline.storage.tables.reading.table_reading import ImageIds, read_columns, read_image_rows
from sam_pipeline.storage.tables.schema import PROMPTS_SCHEMA


def read_image_prompts(
    output: str, image_ids: ImageIds, storage_options: StorageOptions
) -> dict[int, list[dict[str, Any]]]:
    """The prompts and regions of images, whose ids are ascending: image_id → rows of PROMPT_TYPE, in order."""
    rows = read_image_rows(table_uri(output, "prompts"), image_ids, storage_options)
    # Rows of one file keep their order; those of an image are in one file.
    by_image: dict[int, list[dict[str, Any]]] = {}
    for row in rows.select(PROMPTS_SCHEMA.names).cast(PROMPTS_SCHEMA).to_pylist():
        by_image.setdefault(row.pop("image_id"), []).append(row)
    return by_image


def count_prompts(output: str, num_images: int, storage_options: StorageOptions) -> np.ndarray[Any, np.dtype[np.int64]]:
    """(num_images,) prompts of each image of a plan, regions not counted; every file is compared with what was written.

    Raises:
        DamagedFileError: a file is missing or altered.
    """
    counts = np.zeros(num_images, np.int64)
    table = FencedTable.open(output, "prompts", storage_options)
    if table is None:
        return counts
    for rows in read_columns(table.snapshot, ["image_id", "role"], storage_options, is_checked=True):
        is_counted = pc.and_(pc.equal(rows["role"], "prompt"), pc.less(rows["image_id"], num_images))
        ids = rows.filter(is_counted)["image_id"].to_numpy()
        counts += np.bincount(ids, minlength=num_images)
    return counts
