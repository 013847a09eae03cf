"""Bridges between the borders of a mask, over which one closed line can walk along all of them.

A bridge is walked there and back, so it has no width. One to a hole runs through the mask and is never seen. One to
another part runs over background; readers that draw the line itself add its pixels, so those bridges are short.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from sam_pipeline.exports.polygons.rings import Rings

Place = tuple[int, int]
"""Index of a line in Rings.lines, and of a point in it."""
Bridge = tuple[Place, Place]

_STRIP_PIXELS = 1 << 20


@dataclass(frozen=True)
class _Way:
    """The shortest way between two parts."""

    parts: tuple[int, int]
    pixels: tuple[NDArray[np.int64], NDArray[np.int64]]
    """(2,) x and y of the pixels at its ends."""

    @property
    def num_pixels(self) -> int:
        """Pixels of background that are drawn with it."""
        return int(np.abs(self.pixels[0] - self.pixels[1]).max()) - 1


def bridges_to_holes(rings: Rings) -> list[Bridge]:
    """A bridge from the leftmost point of each hole, along its row to the next border on the left.

    That border lies further left than the hole, so all ways lead to the outer border of the part.
    """
    if not rings.holes:
        return []
    leftmost = [int(rings.lines[hole][:, 0].argmin()) for hole in rings.holes]
    x, y = np.array([rings.lines[hole][point] for hole, point in zip(rings.holes, leftmost, strict=True)]).T
    run_starts = [_run_start(rings.mask[row], column) for column, row in zip(x // 2, y // 2, strict=True)]
    borders = _Places(rings).find(np.stack([2 * np.array(run_starts), y], axis=1))
    return [
        ((hole, point), border) for hole, point, border in zip(rings.holes, leftmost, borders, strict=True) if border
    ]


def bridges_between_parts(rings: Rings, *, worthwhile: bool) -> list[Bridge]:
    """The shortest bridges that join all parts of a mask: a minimum spanning tree.

    Args:
        rings: of the mask.
        worthwhile: leave out bridges that have more pixels than what they would join to the largest part.
    """
    if len(rings.outer) == 1:
        return []
    ways = _shortest_ways(rings)
    if worthwhile:
        ways = _worthwhile(ways, rings.part_areas)
    places = _Places(rings)
    bridges = []
    for way in ways:
        one, other = way.pixels
        ends = [
            next(place for place in places.find(halves) if place is not None)
            for halves in (_nearest_first(one, other), _nearest_first(other, one))
        ]
        bridges.append((ends[0], ends[1]))
    return bridges


def _shortest_ways(rings: Rings) -> list[_Way]:
    pixels = _meeting_pixels(rings)
    width = rings.mask.shape[1]
    parts = rings.parts.reshape(-1)[pixels]
    ends = np.stack([pixels % width, pixels // width], axis=-1)  # (ways, 2), and x and y
    order = np.argsort(((ends[:, 0] - ends[:, 1]) ** 2).sum(axis=1), kind="stable")
    _, shortest = np.unique(np.sort(parts[order], axis=1), axis=0, return_index=True)
    joined = list(range(len(rings.outer)))
    ways = []
    for way in order[np.sort(shortest)]:
        one, other = parts[way].tolist()
        root, root_of_other = _root(joined, one), _root(joined, other)
        if root != root_of_other:
            joined[root] = root_of_other
            ways.append(_Way((one, other), (ends[way, 0], ends[way, 1])))
    return ways


def _meeting_pixels(rings: Rings) -> NDArray[np.int64]:
    """Where two neighbours are nearest to different parts, the pixels that they are nearest to.

    Returns:
        (ways, 2), numbers of pixels of the mask, row after row: first the ways between neighbours in a row.
    """
    # For each pixel the nearest one of the mask, under a number of its own.
    nearest = cv2.distanceTransformWithLabels(1 - rings.mask, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)[1]
    height, width = nearest.shape
    # A strip at a time: pairs of all neighbours would be half a gigabyte for twelve megapixels.
    strips = range(0, height, max(1, _STRIP_PIXELS // width))
    pixel_of = np.zeros(int(nearest.max()) + 1, np.int32)
    for first in strips:
        strip = slice(first, first + strips.step)
        y, x = np.nonzero(rings.mask[strip])
        pixel_of[nearest[strip][y, x]] = (first + y) * width + x
    beside, below = [], []
    for first in strips:
        pixels = pixel_of[nearest[first : first + strips.step + 1]]
        parts = rings.parts.reshape(-1)[pixels]
        beside.append(_where_different(parts[: strips.step], pixels[: strips.step], axis=1))
        below.append(_where_different(parts, pixels, axis=0))
    return np.concatenate([*beside, *below]).astype(np.int64)


def _where_different(parts: NDArray[np.int32], pixels: NDArray[np.int32], axis: int) -> NDArray[np.int32]:
    """The pixels of each two neighbours along an axis whose parts differ, (ways, 2)."""
    firsts, seconds = (slice(None, -1), slice(1, None)) if axis == 0 else (np.s_[:, :-1], np.s_[:, 1:])
    differ = parts[firsts] != parts[seconds]
    return np.stack([pixels[firsts][differ], pixels[seconds][differ]], axis=1)


def _run_start(row: NDArray[np.uint8], column: int) -> int:
    """The first pixel of a run in a row of a mask, of which one pixel is known."""
    before = np.flatnonzero(row[:column] == 0)
    return int(before[-1]) + 1 if len(before) else 0


def _root(joined: list[int], part: int) -> int:
    while joined[part] != part:
        joined[part] = joined[joined[part]]
        part = joined[part]
    return part


def _worthwhile(ways: Sequence[_Way], part_areas: NDArray[np.int64]) -> list[_Way]:
    """Those ways on which, from the largest part, as many pixels of the mask are reached as are drawn beside it."""
    from_part: dict[int, list[_Way]] = defaultdict(list)
    for way in ways:
        for part in way.parts:
            from_part[part].append(way)
    largest = int(part_areas.argmax())
    outwards: list[tuple[_Way, int, int]] = []
    to_do, seen = [largest], {largest}
    while to_do:
        part = to_do.pop()
        for way in from_part[part]:
            (other,) = set(way.parts) - {part}
            if other not in seen:
                seen.add(other)
                to_do.append(other)
                outwards.append((way, part, other))
    gains = part_areas.tolist()
    kept = []
    for way, part, other in reversed(outwards):
        if gains[other] >= way.num_pixels:
            gains[part] += gains[other] - way.num_pixels
            kept.append(way)
    return kept


def _nearest_first(pixel: NDArray[np.int64], towards: NDArray[np.int64]) -> NDArray[np.int64]:
    """The four half pixels of a pixel, (4, 2), the nearest to another pixel first."""
    halves = 2 * pixel + np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    distances = ((halves - (2 * towards + 0.5)) ** 2).sum(axis=1)
    return np.asarray(halves[np.argsort(distances, kind="stable")])


class _Places:
    """Where half pixels are in the lines of some rings."""

    def __init__(self, rings: Rings) -> None:
        self._row_length = 2 * rings.mask.shape[1]
        keys = self._keys(np.concatenate(rings.lines))
        self._order = np.argsort(keys, kind="stable")
        self._keys_in_order = keys[self._order]
        self._starts = np.cumsum([0, *(len(line) for line in rings.lines)])

    def _keys(self, points: NDArray[np.integer]) -> NDArray[np.int64]:
        return np.asarray(points[:, 1].astype(np.int64) * self._row_length + points[:, 0])

    def find(self, points: NDArray[np.integer]) -> list[Place | None]:
        """The place of each point; None for one that is in no line."""
        keys = self._keys(points)
        ranks = np.minimum(np.searchsorted(self._keys_in_order, keys), len(self._order) - 1)
        positions = self._order[ranks]
        lines = np.searchsorted(self._starts, positions, side="right") - 1
        found = zip(
            self._keys_in_order[ranks] == keys, lines.tolist(), (positions - self._starts[lines]).tolist(), strict=True
        )
        return [(line, point) if is_found else None for is_found, line, point in found]
