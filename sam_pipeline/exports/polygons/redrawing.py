"""How much of a mask is left once its polygons are drawn again, by the rules of their readers."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from sam_pipeline.exports.polygons.polygons import Polygon
from sam_pipeline.masks.runs import rle
from sam_pipeline.masks.runs.rle import Rle


def coco_iou(mask: Rle, polygons: Sequence[Polygon]) -> float:
    """IoU of a mask with what pycocotools makes of its polygons, which are of edges."""
    if not polygons:
        return 0.0
    drawn = coco_mask.merge(
        coco_mask.frPyObjects([polygon.reshape(-1).tolist() for polygon in polygons], *mask["size"])
    )
    return float(coco_mask.iou([mask], [drawn], [0])[0, 0])


def yolo_iou(mask: Rle, shares: Sequence[NDArray[np.float64]]) -> float:
    """IoU of a mask with what loaders of YOLO's labels make of its polygons.

    They round (supervision) or truncate (ultralytics), which is the same for polygons of pixels, and fill with OpenCV.

    Args:
        mask: of an image of (H, W) pixels.
        shares: polygons, (n, 2) x and y each, as they were written: in shares of the image's width and height.
    """
    height, width = mask["size"]
    corners = [np.rint(polygon * (width, height)).astype(np.int32) for polygon in shares]
    if not corners:
        return 0.0
    x, y, w, h = (int(value) for value in coco_mask.toBbox(mask))
    x0, y0 = np.minimum(np.concatenate(corners).min(axis=0), (x, y))
    x1, y1 = np.maximum(np.concatenate(corners).max(axis=0) + 1, (x + w, y + h))
    drawn = np.zeros((y1 - y0, x1 - x0), np.uint8)
    for polygon in corners:
        cv2.fillPoly(drawn, [polygon - (x0, y0)], 1)
    wanted = rle.decode(mask)[y0:y1, x0:x1]
    both, either = np.count_nonzero(wanted & (drawn > 0)), np.count_nonzero(wanted | (drawn > 0))
    return both / either
