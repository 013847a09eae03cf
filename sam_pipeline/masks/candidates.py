"""The masks of an image that no filter has dropped so far, as columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sam_pipeline.masks.geometry.crops import Box
from sam_pipeline.masks.records import MaskRecord
from sam_pipeline.masks.runs import rle
from sam_pipeline.masks.runs.runs import Runs

Mask = TypeVar("Mask", bound=Tensor | Runs | None)
Other = TypeVar("Other", bound=Tensor | Runs | None)


@dataclass(frozen=True)
class Candidates(Generic[Mask]):
    """N masks: low-resolution logits in the frame of the crop they were found in, later runs in that of the image."""

    masks: Sequence[Mask]
    """N masks."""
    boxes_xyxy: NDArray[np.int64]
    """(N, 4) pixels, both corners inclusive."""
    iou_predictions: NDArray[np.float32]
    """(N,)"""
    stability_scores: NDArray[np.float32]
    """(N,)"""
    point_coords: NDArray[np.float64]
    """(N, 2) x and y in pixels."""
    crop_boxes_xyxy: NDArray[np.int64]
    """(N, 4) pixels of the image, lower right corner exclusive."""

    @staticmethod
    def concatenate(parts: Iterable[Candidates[Mask]]) -> Candidates[Mask]:
        """One after the other; of no parts, no candidates."""
        parts = list(parts)
        return Candidates(
            masks=[mask for part in parts for mask in part.masks],
            boxes_xyxy=np.concatenate([np.empty((0, 4), np.int64), *(part.boxes_xyxy for part in parts)]),
            iou_predictions=np.concatenate([np.empty(0, np.float32), *(part.iou_predictions for part in parts)]),
            stability_scores=np.concatenate([np.empty(0, np.float32), *(part.stability_scores for part in parts)]),
            point_coords=np.concatenate([np.empty((0, 2)), *(part.point_coords for part in parts)]),
            crop_boxes_xyxy=np.concatenate([np.empty((0, 4), np.int64), *(part.crop_boxes_xyxy for part in parts)]),
        )

    def take(self, indices: NDArray[np.int64]) -> Candidates[Mask]:
        """The candidates at `indices`, in that order."""
        return Candidates(
            masks=[self.masks[i] for i in indices],
            boxes_xyxy=self.boxes_xyxy[indices],
            iou_predictions=self.iou_predictions[indices],
            stability_scores=self.stability_scores[indices],
            point_coords=self.point_coords[indices],
            crop_boxes_xyxy=self.crop_boxes_xyxy[indices],
        )

    def with_masks(self, masks: Sequence[Other]) -> Candidates[Other]:
        """The same candidates with other masks."""
        return Candidates(
            masks=masks,
            boxes_xyxy=self.boxes_xyxy,
            iou_predictions=self.iou_predictions,
            stability_scores=self.stability_scores,
            point_coords=self.point_coords,
            crop_boxes_xyxy=self.crop_boxes_xyxy,
        )

    def uncrop(self, runs: Iterable[Runs], crop_box_xyxy: Box, original_size: tuple[int, int]) -> Candidates[Runs]:
        """Move candidates of one crop, now with these runs as masks, to the frame of the image of (H, W) pixels."""
        x0, y0, _, _ = crop_box_xyxy
        return Candidates(
            masks=[mask.uncrop(crop_box_xyxy, original_size) for mask in runs],
            boxes_xyxy=self.boxes_xyxy + np.array([x0, y0, x0, y0]),
            iou_predictions=self.iou_predictions,
            stability_scores=self.stability_scores,
            point_coords=self.point_coords + np.array([x0, y0]),
            crop_boxes_xyxy=self.crop_boxes_xyxy,
        )


def to_records(found: Candidates[Runs]) -> list[MaskRecord]:
    """The candidates of an image as records, in order."""
    return [
        MaskRecord(
            segmentation=rle.encode(mask),
            area=mask.area(),
            bbox=xyxy_to_xywh(found.boxes_xyxy[i]),
            predicted_iou=float(found.iou_predictions[i]),
            point_coords=((float(found.point_coords[i, 0]), float(found.point_coords[i, 1])),),
            stability_score=float(found.stability_scores[i]),
            crop_box=xyxy_to_xywh(found.crop_boxes_xyxy[i]),
        )
        for i, mask in enumerate(found.masks)
    ]


def xyxy_to_xywh(box_xyxy: NDArray[np.int64]) -> Box:
    """Corners → x, y, and the distances between them."""
    x0, y0, x1, y1 = box_xyxy.tolist()
    return x0, y0, x1 - x0, y1 - y0
