"""The masks of an image that have passed the filters so far, as columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sam_pipeline.masks import rle
from sam_pipeline.masks.crops import Box
from sam_pipeline.masks.records import MaskRecord
from sam_pipeline.masks.rle import Rle


@dataclass(frozen=True)
class Candidates:
    """N masks in the frame of the crop they were found in, or, after `uncrop`, of the image."""

    rles: Sequence[Rle]
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
    def concatenate(parts: Iterable[Candidates]) -> Candidates:
        """One after the other; of no parts, no candidates."""
        parts = [_NONE, *parts]
        return Candidates(
            rles=[one for part in parts for one in part.rles],
            boxes_xyxy=np.concatenate([part.boxes_xyxy for part in parts]),
            iou_predictions=np.concatenate([part.iou_predictions for part in parts]),
            stability_scores=np.concatenate([part.stability_scores for part in parts]),
            point_coords=np.concatenate([part.point_coords for part in parts]),
            crop_boxes_xyxy=np.concatenate([part.crop_boxes_xyxy for part in parts]),
        )

    def take(self, indices: NDArray[np.int64]) -> Candidates:
        """The candidates at `indices`, in that order."""
        return Candidates(
            rles=[self.rles[i] for i in indices],
            boxes_xyxy=self.boxes_xyxy[indices],
            iou_predictions=self.iou_predictions[indices],
            stability_scores=self.stability_scores[indices],
            point_coords=self.point_coords[indices],
            crop_boxes_xyxy=self.crop_boxes_xyxy[indices],
        )

    def uncrop(self, crop_box_xyxy: Box, original_size: tuple[int, int]) -> Candidates:
        """Move candidates of one crop to the frame of the image, whose (H, W) is `original_size`."""
        x0, y0, _, _ = crop_box_xyxy
        return replace(
            self,
            rles=[rle.uncrop(one, crop_box_xyxy, original_size) for one in self.rles],
            boxes_xyxy=self.boxes_xyxy + np.array([x0, y0, x0, y0]),
            point_coords=self.point_coords + np.array([x0, y0]),
        )

    def to_records(self) -> list[MaskRecord]:
        """The candidates as records, in order."""
        return [
            MaskRecord(
                segmentation=self.rles[i],
                area=rle.area(self.rles[i]),
                bbox=_xyxy_to_xywh(self.boxes_xyxy[i]),
                predicted_iou=float(self.iou_predictions[i]),
                point_coords=((float(self.point_coords[i, 0]), float(self.point_coords[i, 1])),),
                stability_score=float(self.stability_scores[i]),
                crop_box=_xyxy_to_xywh(self.crop_boxes_xyxy[i]),
            )
            for i in range(len(self.rles))
        ]


_NONE = Candidates(
    rles=[],
    boxes_xyxy=np.empty((0, 4), dtype=np.int64),
    iou_predictions=np.empty(0, dtype=np.float32),
    stability_scores=np.empty(0, dtype=np.float32),
    point_coords=np.empty((0, 2), dtype=np.float64),
    crop_boxes_xyxy=np.empty((0, 4), dtype=np.int64),
)


def _xyxy_to_xywh(box_xyxy: NDArray[np.int64]) -> Box:
    x0, y0, x1, y1 = box_xyxy.tolist()
    return x0, y0, x1 - x0, y1 - y0
