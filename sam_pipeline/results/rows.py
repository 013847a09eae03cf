"""A row of the results as Python values: the types of what reading yields."""

from __future__ import annotations

from typing import TypedDict

import numpy as np
import numpy.typing as npt

from sam_pipeline.masks.runs.rle import Rle
from sam_pipeline.storage.tables.schema import Status


class MaskDict(TypedDict):
    """One mask as it is stored; storage.tables.schema.MASK_TYPE says what each field is."""

    segmentation: Rle
    bbox: list[int]
    area: int
    predicted_iou: float
    stability_score: float
    point_coords: list[list[float]]
    crop_box: list[int]
    prompt_id: int | None
    prompt_box: list[float] | None
    point_labels: list[int] | None
    category_id: int | None
    score: float | None


class ImageMask(MaskDict):
    """A mask as it is stored, and which image it is of."""

    image_id: int


class DecodedMask(ImageMask):
    """A mask with its pixels."""

    pixels: npt.NDArray[np.bool_]
    """(H, W), in the frame of the image after EXIF orientation."""


class PromptError(TypedDict):
    """A prompt or region that was not used, and why."""

    role: str
    prompt_id: int | None
    error: str


class ImageRow(TypedDict):
    """The result of one image as it is stored; storage.tables.schema.MASKS_SCHEMA says what each field is."""

    image_id: int
    uri: str
    height: int | None
    width: int | None
    status: Status
    error: str | None
    num_masks: int
    masks: list[MaskDict]
    extra: str | None
    prompt_errors: list[PromptError] | None
