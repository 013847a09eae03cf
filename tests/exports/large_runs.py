"""Runs of any size in little time: masks are drawn once, and dealt out to images at random."""

import numpy as np
import pyarrow as pa

from sam_pipeline.storage.inputs.source_object import SOURCE_SCHEMA
from sam_pipeline.storage.tables.plan import write_plan
from sam_pipeline.storage.tables.results import MaskTable, put_shard
from sam_pipeline.storage.tables.schema import MASKS_SCHEMA
from tests.exports.masks import stored

HEIGHT, WIDTH = 1000, 1500
_SHARD_IMAGES = 8192
_DIFFERENT = 240


def blobs(generator):
    """Masks with wavy edges, from 8 to 300 pixels in radius; their RLE is as long as that of real ones."""
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    for _ in range(_DIFFERENT):
        center_y, center_x = generator.uniform(0, HEIGHT), generator.uniform(0, WIDTH)
        angle = np.arctan2(y - center_y, x - center_x)
        waves = 0.25 * np.sin(3 * angle + generator.uniform(0, 6)) + 0.1 * np.sin(11 * angle + generator.uniform(0, 6))
        radius = np.exp(generator.uniform(np.log(8), np.log(300)))
        pixels = np.hypot(y - center_y, x - center_x) < radius * (1 + waves)
        if pixels.any():
            scores = {"predicted_iou": generator.uniform(0.88, 1), "stability_score": generator.uniform(0.95, 1)}
            yield stored(pixels, **scores)


def make_large_run(output, num_images, masks_per_image=60):
    """A finished run; its image i is file:///in/FOLDER/i.jpg."""
    generator = np.random.default_rng(0)
    masks = pa.array(list(blobs(generator)), MASKS_SCHEMA.field("masks").type.value_type)
    uris = pa.array([f"file:///in/{number // 1000:04}/{number:08}.jpg" for number in range(num_images)])
    columns = {"uri": uris, "size_bytes": pa.array([100] * num_images)}
    images = [columns.get(field.name, pa.nulls(num_images, field.type)) for field in SOURCE_SCHEMA]
    write_plan(output, "/in", pa.table(images, schema=SOURCE_SCHEMA), {})
    table = MaskTable.take_over(output, {"points_per_side": 32, "schema_version": 3}, {"config": "{}"}, {})
    for first in range(0, num_images, _SHARD_IMAGES):
        count = min(_SHARD_IMAGES, num_images - first)
        dealt = masks.take(pa.array(generator.integers(0, len(masks), count * masks_per_image)))
        offsets = pa.array(np.arange(0, len(dealt) + 1, masks_per_image), pa.int32())
        columns = {
            "image_id": np.arange(first, first + count),
            "uri": uris.slice(first, count),
            "height": [HEIGHT] * count,
            "width": [WIDTH] * count,
            "status": ["ok"] * count,
            "num_masks": [masks_per_image] * count,
            "masks": pa.ListArray.from_arrays(offsets, dealt),
        }
        rows = [columns.get(field.name, pa.nulls(count, field.type)) for field in MASKS_SCHEMA]
        shard = pa.table([pa.array(column) for column in rows], names=MASKS_SCHEMA.names).cast(MASKS_SCHEMA)
        table.commit([put_shard(output, shard, {}, table_id=table.id)])
