"""Scores and boxes of masks, and which masks a crop's edge has cut.

Reproduces `calculate_stability_score`, `batched_mask_to_box` and `is_box_near_crop_edge` of
segment_anything/utils/amg.py. N masks, H W pixels of a crop.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sam_pipeline.masks.geometry.crops import Box

EDGE_TOLERANCE = 20
"""Pixels from a crop's edge within which a mask counts as cut by it."""


def stability_scores(mask_logits: Tensor, mask_threshold: float, offset: float) -> Tensor:
    """IoU between each mask cut off `offset` above and `offset` below the mask threshold.

    Args:
        mask_logits: (N, H, W) float32.
        mask_threshold: logit above which a pixel belongs to the mask.
        offset: shift of the threshold, in logits.

    Returns:
        (N,) float32 in [0, 1]; NaN where no pixel is above the lower threshold: `>=` drops it.
    """
    # The lower cut-off contains the higher one, so their counts are union and intersection.
    intersections = _count_pixels(mask_logits > mask_threshold + offset)
    unions = _count_pixels(mask_logits > mask_threshold - offset)
    return intersections / unions


def mask_boxes(masks: Tensor) -> Tensor:
    """Tight boxes around masks.

    Args:
        masks: (N, H, W) bool.

    Returns:
        (N, 4) int64 xyxy in pixels, both corners inclusive; zeros for an empty mask.
    """
    height, width = masks.shape[-2:]
    columns = masks.any(dim=-2).to(torch.uint8)  # (N, W)
    rows = masks.any(dim=-1).to(torch.uint8)  # (N, H)
    # argmax gives the first of equals.
    left, right = columns.argmax(dim=-1), width - 1 - columns.flip(-1).argmax(dim=-1)
    top, bottom = rows.argmax(dim=-1), height - 1 - rows.flip(-1).argmax(dim=-1)
    boxes = torch.stack([left, top, right, bottom], dim=-1)  # (N, 4)
    return boxes * columns.any(dim=-1, keepdim=True)


def near_crop_edge(boxes_xyxy: Tensor, crop_box_xyxy: Box, original_size: tuple[int, int]) -> Tensor:
    """Which boxes come near an edge of the crop that is not also an edge of the image.

    Args:
        boxes_xyxy: (N, 4) int64, crop frame.
        crop_box_xyxy: the crop, original frame.
        original_size: (H, W) of the image.

    Returns:
        (N,) bool.
    """
    height, width = original_size
    crop_box = boxes_xyxy.new_tensor(crop_box_xyxy)
    image_box = boxes_xyxy.new_tensor((0, 0, width, height))
    boxes = boxes_xyxy + crop_box[[0, 1, 0, 1]]
    near_crop = (boxes - crop_box).abs() <= EDGE_TOLERANCE
    near_image = (boxes - image_box).abs() <= EDGE_TOLERANCE
    return (near_crop & ~near_image).any(dim=-1)


def _count_pixels(masks: Tensor) -> Tensor:
    """(N, H, W) bool → (N,) int32."""
    # A row's count in int16 is four times faster than in int32, but overflows in the widest images.
    row_dtype = torch.int16 if masks.shape[-1] <= torch.iinfo(torch.int16).max else torch.int32
    return masks.sum(dim=-1, dtype=row_dtype).sum(dim=-1, dtype=torch.int32)
