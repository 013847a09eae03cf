"""Boundaries of masks, as boundary IoU compares them (Cheng et al., Boundary IoU, CVPR 2021)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from sam_pipeline.masks.runs import rle

DILATION_RATIO = 0.02
"""Width of the boundary as a share of the image's diagonal."""


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
    pixels = rle.decode(mask).view(np.uint8)  # type: ignore[arg-type]
    # The box alone: outside it nothing is to be eroded, and most masks are small.
    piece = np.ascontiguousarray(pixels[y : y + h, x : x + w])
    if piece.size:
        outside = cv2.copyMakeBorder(piece, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
        square = np.ones((3, 3), np.uint8)
        inner = cv2.erode(outside, square, iterations=steps, borderType=cv2.BORDER_CONSTANT, borderValue=0)
        pixels[y : y + h, x : x + w] = piece - inner[1:-1, 1:-1]
    encoded: dict[str, Any] = coco_mask.encode(np.asfortranarray(pixels))
    return encoded
