"""Masks as outlines of a picture that is smaller than their image, in the language of SVG's paths."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sam_pipeline.masks.runs import rle

_LEAST_POINTS = 3


def outline(mask: Mapping[str, Any], scale: float, tolerance: float) -> str:
    """The outline of a mask with its holes, to be filled by the rule evenodd.

    Args:
        mask: a stored mask.
        scale: pixels of the picture for each pixel of the image.
        tolerance: how far the outline may be from the edge of the mask, in pixels of the picture.

    Returns:
        A path with whole numbers; empty for a mask without pixels.
    """
    pixels = rle.decode(mask["segmentation"])
    x, y, w, h = cv2.boundingRect(pixels.view(np.uint8))
    if not w:
        return ""
    # Of the box alone: most masks are much smaller than their image.
    x0, y0 = round(x * scale), round(y * scale)
    x1, y1 = max(x0 + 1, round((x + w) * scale)), max(y0 + 1, round((y + h) * scale))
    scaled = _resized(pixels[y : y + h, x : x + w], (x1 - x0, y1 - y0))
    # Doubled and shifted by one, so that half of what is traced is an edge of a pixel, and not its centre.
    doubled = np.pad(scaled.repeat(2, axis=0).repeat(2, axis=1), 1)
    contours, _ = cv2.findContours(doubled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    parts = [cv2.approxPolyDP(contour, 2 * tolerance, True)[:, 0] for contour in contours]
    corner = np.array([x0, y0], dtype=np.int64)
    found = [_path(corner + part.astype(np.int64) // 2) for part in parts if len(part) >= _LEAST_POINTS]
    return "".join(found) or f"M{x0} {y0}h{x1 - x0}v{y1 - y0}h{x0 - x1}z"


def _resized(pixels: NDArray[np.bool_], size_wh: tuple[int, int]) -> NDArray[np.uint8]:
    """(h, w) of 0 and 255; at least one pixel is set."""
    is_smaller = size_wh[0] < pixels.shape[1]
    method = cv2.INTER_AREA if is_smaller else cv2.INTER_NEAREST
    resized = np.asarray(cv2.resize(pixels.astype(np.uint8) * 255, size_wh, interpolation=method))
    half = min(128, int(resized.max()))
    return (resized >= half).astype(np.uint8) * 255


def _path(points: NDArray[np.int64]) -> str:
    """A closed path: the first point, and then steps from each point to the next, which are shorter to write."""
    (x, y), steps = points[0], np.diff(points, axis=0)
    steps = steps[(steps != 0).any(axis=1)]
    return f"M{x} {y}l" + " ".join(f"{dx} {dy}" for dx, dy in steps) + "z" if len(steps) else ""
