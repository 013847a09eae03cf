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
    number = np.arange(len(masks))
    is_smaller = (areas[:, None] < areas) | ((areas[:, None] == areas) & (number[:, None] > number))
    # Boxes rule out most pairs, of which pixels need not be compared.
    may_lie_in = is_smaller & (_box_intersections(coco_mask.toBbox(masks)) >= LEAST_SHARE * areas[:, None])
    lies_in = np.zeros((len(masks), len(masks)), dtype=bool)
    for outer in np.flatnonzero(may_lie_in.any(axis=0)):
        some = np.flatnonzero(may_lie_in[:, outer])
        # To COCO a crowd is a region: the IoU with one is the share of the other mask.
        share = coco_mask.iou([masks[int(i)] for i in some], [masks[int(outer)]], [1])
        lies_in[some, outer] = share[:, 0] >= LEAST_SHARE
    return lies_in


def _box_intersections(boxes_xywh: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pixels that each two boxes share, (N, N)."""
    x, y, w, h = boxes_xywh.T
    width = np.minimum.outer(x + w, x + w) - np.maximum.outer(x, x)
    height = np.minimum.outer(y + h, y + h) - np.maximum.outer(y, y)
    pixels: NDArray[np.float64] = np.clip(width, 0, None) * np.clip(height, 0, None)
    return pixels
