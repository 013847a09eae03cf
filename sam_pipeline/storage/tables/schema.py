"""Arrow schemas of the Delta tables. Changing one is a new SCHEMA_VERSION, which is part of the fingerprint."""

from __future__ import annotations

from typing import Literal, get_args

import pyarrow as pa

from sam_pipeline.storage.inputs.source_object import SOURCE_SCHEMA
from sam_pipeline.storage.layout import TableName
from sam_pipeline.storage.prompts.prompt_rows import PROMPT_FIELDS

SCHEMA_VERSION = 3

Status = Literal["ok", "fetch_error", "decode_error", "too_large", "changed", "worker_crashed"]
"""How an image ended. With any status but ok, its row has an error in one line, and no masks."""

STATUSES: tuple[Status, ...] = get_args(Status)

IMAGES_SCHEMA = pa.schema([pa.field("image_id", pa.int64(), nullable=False), *SOURCE_SCHEMA])
"""The frozen plan: image_id is 0..N-1 in the order of the URIs; images added later follow in theirs."""

_ROLE = pa.field("role", pa.string(), nullable=False)

PROMPT_TYPE = pa.struct([_ROLE, *PROMPT_FIELDS])
"""What is to be annotated in an image, as it crosses from stage to stage. role: prompt, or region, which limits the
grid; the other fields are those of PROMPT_FIELDS."""

PROMPTS_SCHEMA = pa.schema([pa.field("image_id", pa.int64(), nullable=False), *PROMPT_TYPE])
"""The frozen prompts of a run that has any, in the order of image_id and of their file."""

MASK_TYPE = pa.struct(
    [
        pa.field("segmentation", pa.struct([pa.field("size", pa.list_(pa.int32())), pa.field("counts", pa.string())])),
        pa.field("bbox", pa.list_(pa.int32())),
        pa.field("area", pa.int32()),
        pa.field("predicted_iou", pa.float32()),
        pa.field("stability_score", pa.float32()),
        pa.field("point_coords", pa.list_(pa.list_(pa.float64()))),
        pa.field("crop_box", pa.list_(pa.int32())),
        pa.field("prompt_id", pa.int64()),
        pa.field("prompt_box", pa.list_(pa.float64())),
        pa.field("point_labels", pa.list_(pa.int32())),
        pa.field("category_id", pa.int64()),
        pa.field("score", pa.float64()),
    ]
)
"""One mask with the field names of COCO and SA-1B.

segmentation: compressed COCO RLE of the whole image, size [h, w]; pycocotools decodes it as it is.
bbox, crop_box: [x, y, w, h] in pixels of the image. As in the official generator, bbox's w and h are the distance
between the first and the last pixel, one less than a pixel count; exports carry COCO's, the pixel counts w + 1, h + 1.
point_coords: [[x, y]] in pixels of the image.
prompt_id: which prompt the mask answers; null for a mask of the grid, and then so is what follows.
prompt_box: [x, y, w, h] in pixels of the image, clipped to it; null for a prompt without a box.
point_labels: [1 or 0] for each point.
category_id, score: the detector's, as it gave them.
"""

PROMPT_ERROR_TYPE = pa.struct([_ROLE, pa.field("prompt_id", pa.int64()), pa.field("error", pa.string())])
"""A prompt without a mask, or a region that was not used, and why."""

MASKS_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.int64(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("height", pa.int32()),
        pa.field("width", pa.int32()),
        pa.field("status", pa.string(), nullable=False),
        pa.field("error", pa.string()),
        pa.field("num_masks", pa.int32(), nullable=False),
        pa.field("masks", pa.list_(MASK_TYPE), nullable=False),
        pa.field("extra", pa.string()),
        pa.field("prompt_errors", pa.list_(PROMPT_ERROR_TYPE)),
    ]
)
"""The results: one row an image, also for an image without masks and for one that could not be read.

height, width: pixels of the image as annotated, after EXIF orientation; null if unreadable.
num_masks: length of masks, so that counting and filtering need not read them.
extra: what the source said about the image and the user asked to keep, a JSON object; null where there is nothing.
prompt_errors: prompts that got no mask, because they could not be used or the mask is empty; null where there are none.
"""

TABLE_SCHEMAS: dict[TableName, pa.Schema] = {"images": IMAGES_SCHEMA, "prompts": PROMPTS_SCHEMA, "masks": MASKS_SCHEMA}
"""The tables of an output, by the name of their folder: the plan, its prompts, and the results."""
