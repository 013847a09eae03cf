"""Non-maximum suppression of boxes, with the results of `torchvision.ops.nms`.

We do not use torchvision for these twenty lines: each of its versions requires exactly one version of torch.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray


def nms(boxes_xyxy: NDArray[np.number], scores: NDArray[np.floating], iou_threshold: float) -> NDArray[np.int64]:
    """Keep each box that overlaps no kept box of a higher score by more than the threshold.

    Equal scores keep their input order. Areas are (x1 - x0) * (y1 - y0): a box that is one pixel wide, in inclusive
    coordinates, has none. It suppresses no box and none suppresses it. IoU is float32 and the threshold float64, as
    in torchvision. Takes O(N) memory.

    Args:
        boxes_xyxy: (N, 4), any number type.
        scores: (N,).
        iou_threshold: boxes with an IoU strictly above it are suppressed.

    Returns:
        (K,) int64, indices of the kept boxes, highest score first.
    """
    order = np.argsort(-scores, kind="stable")
    return order[_unsuppressed(np.ascontiguousarray(boxes_xyxy[order], dtype=np.float32), float(iou_threshold))]


@numba.njit(nogil=True, cache=True)
def _unsuppressed(boxes: NDArray[np.float32], iou_threshold: float) -> NDArray[np.bool_]:
    """Which boxes, (N, 4) float32 from the highest score down, are kept; (N,) bool."""
    zero = np.float32(0)
    keep = np.ones(len(boxes), np.bool_)
    for i in range(len(boxes)):
        if not keep[i]:
            continue
        x0, y0, x1, y1 = boxes[i]
        area = (x1 - x0) * (y1 - y0)
        for j in range(i + 1, len(boxes)):
            width = max(zero, min(x1, boxes[j, 2]) - max(x0, boxes[j, 0]))
            height = max(zero, min(y1, boxes[j, 3]) - max(y0, boxes[j, 1]))
            intersection = width * height
            union = area + (boxes[j, 2] - boxes[j, 0]) * (boxes[j, 3] - boxes[j, 1]) - intersection
            # The IoU of two boxes without area is 0 / 0: neither suppresses the other.
            if union > 0 and np.float64(intersection / union) > iou_threshold:
                keep[j] = False
    return keep
