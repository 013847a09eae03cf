"""Non-maximum suppression of boxes, as `torchvision.ops.nms` computes it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def nms(boxes_xyxy: NDArray[np.number], scores: NDArray[np.floating], iou_threshold: float) -> NDArray[np.int64]:
    """Keep each box that overlaps no kept box of a higher score by more than the threshold.

    Equal scores keep their input order. Areas are (x1 - x0) * (y1 - y0), so that boxes of inclusive pixel coordinates
    one pixel wide have no area: their IoU is 0, or 0/0 with one another, and neither suppresses. IoU is float32,
    the threshold float64, as in torchvision. Takes O(N) memory.

    Args:
        boxes_xyxy: (N, 4), any number type.
        scores: (N,).
        iou_threshold: boxes with an IoU strictly above it are suppressed.

    Returns:
        (K,) int64, indices of the kept boxes, highest score first.
    """
    order = np.argsort(-scores, kind="stable")
    x0, y0, x1, y1 = np.ascontiguousarray(boxes_xyxy[order].T, dtype=np.float32)
    areas = (x1 - x0) * (y1 - y0)
    alive = np.ones(len(order), dtype=bool)
    zero = np.float32(0)
    for i in range(len(order)):
        if not alive[i]:
            continue
        rest = slice(i + 1, None)
        widths = np.maximum(zero, np.minimum(x1[i], x1[rest]) - np.maximum(x0[i], x0[rest]))
        heights = np.maximum(zero, np.minimum(y1[i], y1[rest]) - np.maximum(y0[i], y0[rest]))
        intersections = widths * heights
        with np.errstate(invalid="ignore"):
            ious = intersections / (areas[i] + areas[rest] - intersections)
        # A Python float would be rounded to float32 before the comparison.
        alive[rest] &= ~(ious.astype(np.float64) > iou_threshold)
    return order[alive]
