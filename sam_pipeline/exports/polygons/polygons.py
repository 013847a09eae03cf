"""A mask as polygons, such that readers who draw them again get the mask.

Readers draw in two ways, and no polygon suits both:

- COCO's (pycocotools): pixel x covers [x, x + 1], and a polygon fills the pixels whose centres it holds. Its corners
  are edges of pixels; a polygon through centres loses the last row and column (cocodataset/cocoapi#659).
- YOLO's loaders (OpenCV's fillPoly): corners become whole numbers, by rounding or by truncation, and the pixels of
  that name are filled with all between them. So corners are pixels of the mask; edges would add a row and a column.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from threading import Lock
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from sam_pipeline.exports.polygons.bridges import bridges_between_parts, bridges_to_holes
from sam_pipeline.exports.polygons.rings import Line, trace_rings
from sam_pipeline.exports.polygons.walking import Ways, walk, ways_of
from sam_pipeline.masks.runs import rle
from sam_pipeline.masks.runs.rle import Rle

Parts = Literal["bridge", "split", "largest"]
"""What becomes of a mask of several parts: bridges join them into one polygon, each becomes a polygon, or the largest
is taken alone."""
Corners = Literal["edges", "pixels"]
"""What the corners of a polygon are: edges of pixels, for COCO; or pixels, for YOLO."""
Polygon = NDArray[np.float64]
"""(n, 2) x and y in pixels of the image; n is at least 3, and the last corner is joined to the first."""

# Added to the number of a pixel, so that rounding and truncation both give the pixel.
_WITHIN_PIXEL = 0.25
# The same for what would have no area, such as a single pixel: its first and its last half are told apart.
_HALVES_WITHIN_PIXEL = (0.1, 0.4)

# Some 18 bytes are held of each pixel of a mask's box. So those of large boxes are traced one at a time, whatever the
# number of threads.
_LARGE_PIXELS = 2 << 20
_ONE_LARGE = Lock()


def mask_polygons(mask: Rle, *, parts: Parts, corners: Corners, simplify: float = 0.0) -> list[Polygon]:
    """The polygons of a mask, which readers of their kind draw again as the mask.

    Pixels that touch at a corner are one part. Each hole is joined to its part by a bridge without width.
    For readers of pixels a bridge between parts is a line of pixels that is not in the mask. There, a part that has
    fewer pixels than its bridge is left out.

    Args:
        mask: of an image.
        parts: bridge and largest give one polygon, split one for each part.
        corners: for which kind of reader.
        simplify: pixels by which the border may be moved to save corners (Douglas-Peucker); 0 keeps every corner.

    Returns:
        The polygon of the largest part first; none for an empty mask.
    """
    x, y, width, height = (int(value) for value in coco_mask.toBbox(mask))
    if not width:
        return []
    with _ONE_LARGE if width * height > _LARGE_PIXELS else nullcontext():
        pixels = np.ascontiguousarray(rle.decode(mask)[y : y + height, x : x + width]).view(np.uint8)
        found = _box_polygons(pixels, parts, corners, simplify)
    return [polygon + np.array([x, y]) for polygon in found]


def _box_polygons(mask: NDArray[np.uint8], parts: Parts, corners: Corners, simplify: float) -> list[Polygon]:
    """The polygons of a mask (H, W) of 0 and 1, in which there is at least one pixel."""
    rings = trace_rings(mask)
    bridges = bridges_to_holes(rings)
    if parts == "bridge":
        bridges += bridges_between_parts(rings, worthwhile=corners == "pixels")
    ways = ways_of(bridges)
    starts = [rings.outer[part] for part in np.argsort(-rings.part_areas, kind="stable")]
    if parts != "split":
        del starts[1:]
    if corners == "edges":
        edges = [(line + 1) // 2 for line in rings.lines]
        return [walk(edges, ways, start, simplify).astype(np.float64) for start in starts]
    pixels = [line // 2 for line in rings.lines]
    return [_polygon_of_pixels(pixels, rings.lines, ways, start, simplify) for start in starts]


def _polygon_of_pixels(
    pixels: Sequence[Line], halves: Sequence[Line], ways: Ways, start: int, simplify: float
) -> Polygon:
    polygon = walk(pixels, ways, start, simplify)
    if len(polygon) > 2 and cv2.contourArea(polygon) > 0:
        return polygon.astype(np.float64) + _WITHIN_PIXEL
    polygon = walk(halves, ways, start, 0)
    within: NDArray[np.float64] = np.array(_HALVES_WITHIN_PIXEL)[polygon % 2]
    return polygon // 2 + within
