"""Outputs made by hand, from a plan to committed shards, with masks whose boxes and areas are right."""

import numpy as np
import pyarrow as pa
import pytest

from sam_pipeline.masks.runs import rle
from sam_pipeline.masks.runs.runs import Runs
from sam_pipeline.storage.inputs.source_object import SourceObject, source_table
from sam_pipeline.storage.tables.delta import table_id
from sam_pipeline.storage.tables.delta_place import Table
from sam_pipeline.storage.tables.plan import write_plan
from sam_pipeline.storage.tables.results import MaskTable, put_shard
from sam_pipeline.storage.tables.schema import MASKS_SCHEMA
from tests.stored_masks import NO_PROMPT

HEIGHT, WIDTH = 12, 16
FINGERPRINT = {"points_per_side": 32, "max_pixels": 1_000_000, "weights_sha256": "aa", "schema_version": 1}

# The scores of a mask after their visit to float32: seven digits remain.
FLOAT_FIELDS = {"predicted_iou": pytest.approx(0.9, abs=1e-7), "stability_score": pytest.approx(0.97, abs=1e-7)}


def plan(output, num_images):
    images = [SourceObject(f"file:///in/{index:04}.jpg", 100 + index, f"etag-{index}") for index in range(num_images)]
    return write_plan(output, "/in", source_table(images), {})


def take_over(output, fingerprint=FINGERPRINT, options=None):
    return MaskTable.take_over(output, fingerprint, {"config": "{}"}, options or {})


def mask(seed):
    """A rectangle in an image of HEIGHT × WIDTH, as the generator describes it."""
    generator = np.random.default_rng(seed)
    x, y, w, h = (int(generator.integers(low, high)) for low, high in ((0, 8), (0, 6), (1, 8), (1, 6)))
    pixels = np.zeros((HEIGHT, WIDTH), bool)
    pixels[y : y + h + 1, x : x + w + 1] = True
    return {
        "segmentation": rle.encode(Runs.of_mask(pixels)),
        "bbox": [x, y, w, h],
        "area": int(pixels.sum()),
        "predicted_iou": 0.9,
        "stability_score": 0.97,
        "point_coords": [[x + 0.5, y + 0.25]],
        "crop_box": [0, 0, WIDTH, HEIGHT],
        **NO_PROMPT,
    }


def row(image_id, num_masks=2, **changes):
    """The result of one image; changes replace fields."""
    masks = [mask(10 * image_id + index) for index in range(num_masks)]
    result = {"image_id": image_id, "uri": f"file:///in/{image_id:04}.jpg", "height": HEIGHT, "width": WIDTH}
    result |= {"status": "ok", "error": None, "num_masks": num_masks, "masks": masks, "extra": None}
    result |= {"prompt_errors": None}
    return result | changes


def failed_row(image_id, status="decode_error"):
    return row(image_id, 0, height=None, width=None, status=status, error="the file is empty")


def results_table(rows):
    return pa.Table.from_pylist(rows, schema=MASKS_SCHEMA)


def shard(output, rows, options=None):
    uri = f"{output}/masks"
    table = Table(uri, options or {})
    return put_shard(output, results_table(rows), options or {}, table_id=table_id(table))


def finished(output, rows, num_images=None):
    """A plan, and the rows in two commits; returns the table."""
    plan(output, len(rows) if num_images is None else num_images)
    table = take_over(output)
    half = (len(rows) + 1) // 2
    for part in (rows[:half], rows[half:]):
        table.commit([shard(output, part)])
    return table
