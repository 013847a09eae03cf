"""The closed borders of a mask: one around each part, and one around each hole.

Points are in half pixels: 2x and 2x + 1 are the first and the last half of pixel x. So one point tells both a pixel,
p // 2, and the nearest of its edges, (p + 1) // 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Line = NDArray[np.int32]
"""(n, 2) x and y of points; each touches the one before at a side or a corner."""


@dataclass(frozen=True, eq=False)
class Rings:
    """The borders of a mask of (H, W) pixels, at least one of them set."""

    mask: NDArray[np.uint8]
    """(H, W), 0 or 1."""
    parts: NDArray[np.int32]
    """(H, W), which part of the mask a pixel is in, from 0; -1 in none. Pixels that touch at a corner are one part."""
    part_areas: NDArray[np.int64]
    """Pixels of each part."""
    lines: list[Line]
    """Closed lines along the half pixels of the mask that are at a border."""
    outer: list[int]
    """For each part, which of lines goes around it."""
    holes: list[int]
    """Those of lines that go around a hole. Pixels of a hole that touch at a corner are two holes."""


def trace_rings(mask: NDArray[np.uint8]) -> Rings:
    """The borders of a mask (H, W) of 0 and 1, in which there is at least one pixel."""
    contours, hierarchy = _contours(mask)
    lines: list[Any] = [contour[:, 0] for contour in contours]
    is_hole = hierarchy[0, :, 3] >= 0
    num_labels, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    parts: NDArray[np.int32] = np.subtract(labels, 1, out=labels)
    outer = [0] * (num_labels - 1)
    for number in np.flatnonzero(~is_hole).tolist():
        x, y = lines[number][0] // 2
        outer[parts[y, x]] = number
    part_areas = stats[1:, cv2.CC_STAT_AREA].astype(np.int64)
    return Rings(mask, parts, part_areas, lines, outer, np.flatnonzero(is_hole).tolist())


def _contours(mask: NDArray[np.uint8]) -> tuple[Any, Any]:
    # A pixel of 2 × 2 has a border of its own on each side, which OpenCV's tracing along pixels lacks.
    halves = cv2.resize(mask, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
    return cv2.findContours(halves, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
