"""Which masks of an image lie in which others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from sam_pipeline.masks.runs.rle import Rle

LEAST_SHARE = 0.9
"""A mask lies in another if at least this share of its pixels does: edges of masks are seldom equal."""

# Of thousands of masks, all pairs of boxes at once would take gigabytes.
_OUTER_AT_ONCE = 256


def contained(masks: Sequence[Rle]) -> NDArray[np.bool_]:
    """Compare all masks of an image, pixel by pixel.

    Of two masks that lie in each other the smaller one, or the later one of the same area, lies in the other.

    Returns:
        (N, N), whether mask i lies in mask j; never in itself.
    """
    # One by one: pycocotools fails at more than 255 at once, with NumPy 2.
    areas = np.array([coco_mask.area(mask) for mask in masks], np.int64)
    boxes_xywh = coco_mask.toBbox(masks)
    number = np.arange(len(masks))
    lies_in = np.zeros((len(masks), len(masks)), dtype=bool)
    for first in range(0, len(masks), _OUTER_AT_ONCE):
        some = slice(first, first + _OUTER_AT_ONCE)
        is_smaller = (areas[:, None] < areas[some]) | (
            (areas[:, None] == areas[some]) & (number[:, None] > number[some])
        )
        # Boxes rule out most pairs, of which pixels need not be compared.
        may_lie_in = is_smaller & (_box_intersections(boxes_xywh, boxes_xywh[some]) >= LEAST_SHARE * areas[:, None])
        for place in np.flatnonzero(may_lie_in.any(axis=0)):
            inner = np.flatnonzero(may_lie_in[:, place])
            # To COCO a crowd is a region: the IoU with one is the share of the other mask.
            share = coco_mask.iou([masks[int(i)] for i in inner], [masks[first + int(place)]], [1])
            lies_in[inner, first + place] = share[:, 0] >= LEAST_SHARE
    return lies_in


def _box_intersections(inner_xywh: NDArray[np.float64], outer_xywh: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pixels that each two boxes share, (N, M)."""
    (x0, y0, w0, h0), (x1, y1, w1, h1) = inner_xywh.T, outer_xywh.T
    width = np.minimum.outer(x0 + w0, x1 + w1) - np.maximum.outer(x0, x1)
    height = np.minimum.outer(y0 + h0, y1 + h1) - np.maximum.outer(y0, y1)
    pixels: NDArray[np.float64] = np.clip(width, 0, None) * np.clip(height, 0, None)
    return pixels
