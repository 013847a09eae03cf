"""Which masks of an image lie in which others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from sam_pipeline.masks.runs.rle import Rle

LEAST_SHARE = 0.9
"""A mask lies in another if at least this share of its pixels does: edges of masks are seldom equal."""


def contained(masks: Sequence[Rle]) -> NDArray[np.bool_]:
    """Compare all masks of an image, pixel by pixel.

    Of two masks that lie in each other the smaller one, or the later one of the same area, lies in the other.

    Returns:
        (N, N), whether mask i lies in mask j; never in itself.
    """
    areas = coco_mask.area(masks).astype(np.int64)
    # To COCO a crowd is a region: the IoU with one is the share of the other mask.
    share = coco_mask.iou(masks, masks, [1] * len(masks))
    number = np.arange(len(masks))
    is_smaller = (areas[:, None] < areas) | ((areas[:, None] == areas) & (number[:, None] > number))
    lies_in: NDArray[np.bool_] = (share >= LEAST_SHARE) & is_smaller
    return lies_in
