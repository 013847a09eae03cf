"""Boundaries of masks, as boundary IoU compares them (Cheng et al., Boundary IoU, CVPR 2021)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from sam_pipeline.masks.runs import rle

DILATION_RATIO = 0.02
"""Width of the boundary as a share of the image's diagonal."""


_LEAST_MATCH = 0.5
"""COCO's lowest threshold: less than this matches nothing."""


def boundary_ious(
    ious: NDArray[np.float64], masks: Sequence[Mapping[str, Any]], objects: Sequence[Mapping[str, Any]]
) -> NDArray[np.float64]:
    """The lesser of the IoU of masks and that of their boundaries, where it can matter.

    It is computed only where it may reach 0.5 or be the highest of its object, and is 0 elsewhere: most masks of an
    image are near no object, and their boundaries need not be drawn.

    Args:
        ious: (masks, objects), of the masks.
        masks: compressed RLE.
        objects: compressed RLE.

    Returns:
        (masks, objects).
    """
    lesser = np.zeros_like(ious)
    if not ious.size:
        return lesser
    bands = [boundary(each) for each in objects]
    is_done = np.zeros(len(masks), bool)
    is_needed = np.asarray((ious >= _LEAST_MATCH).any(axis=1))
    is_needed[ious.argmax(axis=0)] = True
    for _ in range(2):  # then those that may be better yet than the best of an object
        some: list[int] = np.flatnonzero(is_needed & ~is_done).tolist()
        if some:
            of_bands = coco_mask.iou([boundary(masks[place]) for place in some], bands, [0] * len(bands))
            lesser[some] = np.minimum(ious[some], of_bands)
        is_done[some] = True
        is_needed = np.asarray((ious > lesser.max(axis=0)).any(axis=1))
    return lesser


def boundary(mask: Mapping[str, Any]) -> dict[str, Any]:
    """The pixels of a mask that are nearer to its outside, or to the image's edge, than the boundary is wide.

    Nearness counts steps to any of eight neighbours, as in the authors' code.

    Args:
        mask: compressed RLE.

    Returns:
        Compressed RLE of the same size.
    """
    height, width = mask["size"]
    steps = max(1, round(DILATION_RATIO * math.hypot(height, width)))
    x, y, w, h = (int(value) for value in coco_mask.toBbox(mask))
    pixels = rle.decode(mask).view(np.uint8)  # type: ignore[arg-type]  # a mapping will do
    # The box alone: outside it nothing is to be eroded, and most masks are small.
    piece = np.ascontiguousarray(pixels[y : y + h, x : x + w])
    if piece.size:
        outside = cv2.copyMakeBorder(piece, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
        square = np.ones((3, 3), np.uint8)
        inner = cv2.erode(outside, square, iterations=steps, borderType=cv2.BORDER_CONSTANT, borderValue=0)
        pixels[y : y + h, x : x + w] = piece - inner[1:-1, 1:-1]
    encoded: dict[str, Any] = coco_mask.encode(np.asfortranarray(pixels))
    return encoded
