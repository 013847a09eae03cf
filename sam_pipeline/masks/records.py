"""One mask with its scores, as the generator returns it, and one that answers a prompt."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sam_pipeline.masks.geometry.crops import Box
from sam_pipeline.masks.runs import rle
from sam_pipeline.masks.runs.rle import Rle


@dataclass(frozen=True)
class MaskRecord:
    """A mask of an image of (H, W) pixels; the fields are those of SA-1B and of the official generator.

    Boxes are x, y, width, height in pixels of the original frame.
    """

    segmentation: Rle
    """The mask, size [H, W]."""
    area: int
    """Pixels in the mask."""
    bbox: Box
    """Around the mask. Width and height are differences of pixel coordinates: one less than the pixels spanned."""
    predicted_iou: float
    """The model's own estimate of the mask's quality; about 0 to 1."""
    point_coords: tuple[tuple[float, float], ...]
    """The prompt: (x, y) in pixels of the original frame."""
    stability_score: float
    """IoU of the mask cut off above and below the mask threshold, in [0, 1]."""
    crop_box: Box
    """The crop of the image in which the mask was found."""

    def binary_mask(self) -> NDArray[np.bool_]:
        """The mask as an (H, W) bool array."""
        return rle.decode(self.segmentation)

    def to_dict(self) -> dict[str, object]:
        """The record as the official generator gives it in output mode `coco_rle`."""
        return {
            "segmentation": dict(self.segmentation),
            "area": self.area,
            "bbox": list(self.bbox),
            "predicted_iou": self.predicted_iou,
            "point_coords": [list(point) for point in self.point_coords],
            "stability_score": self.stability_score,
            "crop_box": list(self.crop_box),
        }


@dataclass(frozen=True)
class PromptedMaskRecord(MaskRecord):
    """The mask of a prompt; point_coords are its points, of which there may be none."""

    prompt_id: int
    """The id of its prompt."""
    prompt_box: tuple[float, float, float, float] | None
    """The prompt's box: x, y, width, height in pixels of the original frame; clipped to the image."""
    point_labels: tuple[int, ...]
    """1 for a point on the object, 0 for one off it."""
    category_id: int | None
    """The detector's, as it gave it."""
    score: float | None
    """The detector's, as it gave it."""

    def to_dict(self) -> dict[str, object]:
        """The fields of a mask, and those of its prompt."""
        return super().to_dict() | {
            "prompt_id": self.prompt_id,
            "prompt_box": None if self.prompt_box is None else list(self.prompt_box),
            "point_labels": list(self.point_labels),
            "category_id": self.category_id,
            "score": self.score,
        }
