"""What every file of prompts gives: one row a prompt, with the image that it names; and how such a file is read."""

from __future__ import annotations

from dataclasses import dataclass, field

import pyarrow as pa

from sam_pipeline.config import PromptConfig
from sam_pipeline.storage.objects.filesystem import StorageOptions

MASK_INPUT_SIZE = 256
"""Height and width of a mask prompt: low-resolution logits, as the predictor returns them."""

PROMPT_FIELDS = [
    pa.field("prompt_id", pa.int64(), nullable=False),
    pa.field("box_xyxy", pa.list_(pa.float64())),
    pa.field("point_coords", pa.list_(pa.list_(pa.float64()))),
    pa.field("point_labels", pa.list_(pa.int32())),
    pa.field("mask_input", pa.large_binary()),
    pa.field("polygon", pa.list_(pa.list_(pa.float64()))),
    pa.field("is_relative", pa.bool_(), nullable=False),
    pa.field("category_id", pa.int64()),
    pa.field("score", pa.float64()),
    pa.field("error", pa.string()),
]
"""One prompt, or one region of interest.

prompt_id: the annotation's own id where it has one, else its number in the file (in YOLO's layout: the line), from 0.
box_xyxy: [x0, y0, x1, y1], as given, neither clipped nor checked against the image.
point_coords, point_labels: [[x, y], …] with 1 on the object, 0 off it.
mask_input: (256, 256) float32 logits, little-endian, row by row.
polygon: [[x, y], …], of a region only.
is_relative: whether box and points are shares of the image's width and height; else they are pixels of the image.
category_id, score: of the detector, to be carried to the result.
error: why the prompt cannot be used; then all that describes an object is null.
"""

KEYED_PROMPTS = pa.schema(
    [pa.field("key", pa.string()), pa.field("is_image_id", pa.bool_(), nullable=False), *PROMPT_FIELDS]
)
"""Prompts as a file has them. key: which image, in the file's own words (a URI, a name, a number); null where the file
names none. is_image_id: whether the file calls it an id of the image, as COCO does."""


@dataclass(frozen=True)
class PromptOptions:
    """How a file of prompts is to be read."""

    storage: StorageOptions
    """Fsspec options of remote filesystems."""
    prompting: PromptConfig = field(default_factory=PromptConfig)
    """How its boxes are to be read, and which of its prompts are left out."""
    planned_from: str | None = None
    """What the images were planned from. Where that is the file of prompts itself, its images go by their ids."""
