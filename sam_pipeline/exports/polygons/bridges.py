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
"""A line of some rings, and a point of it."""
Bridge = tuple[Place, Place]


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
    # For each pixel of the mask the first one of its run in the row.
    columns = np.arange(rings.mask.shape[1])
    run_starts = np.maximum.accumulate(np.where(rings.mask == 0, columns + 1, 0), axis=1)
    borders = _Places(rings).find(np.stack([2 * run_starts[y // 2, x // 2], y], axis=1))
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
    # For each pixel the nearest one of the mask, as a number: where two neighbours differ in its part, a way may run.
    _, nearest = cv2.distanceTransformWithLabels(1 - rings.mask, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    y, x = np.nonzero(rings.mask)
    pixel_of = np.zeros((nearest.max() + 1, 2), np.int64)
    pixel_of[nearest[y, x]] = np.stack([x, y], axis=1)
    part_of = np.zeros(len(pixel_of), np.int64)
    part_of[nearest[y, x]] = rings.parts[y, x]
    neighbours = np.concatenate(
        [
            np.stack([nearest[:, :-1].reshape(-1), nearest[:, 1:].reshape(-1)], axis=1),
            np.stack([nearest[:-1].reshape(-1), nearest[1:].reshape(-1)], axis=1),
        ]
    )
    ends = neighbours[part_of[neighbours[:, 0]] != part_of[neighbours[:, 1]]]
    parts, pixels = part_of[ends], pixel_of[ends]  # (ways, 2), (ways, 2, 2)
    order = np.argsort(((pixels[:, 0] - pixels[:, 1]) ** 2).sum(axis=1), kind="stable")
    _, shortest = np.unique(np.sort(parts[order], axis=1), axis=0, return_index=True)
    joined = list(range(len(rings.outer)))
    ways = []
    for way in order[np.sort(shortest)]:
        one, other = parts[way].tolist()
        root, root_of_other = _root(joined, one), _root(joined, other)
        if root != root_of_other:
            joined[root] = root_of_other
            ways.append(_Way((one, other), (pixels[way, 0], pixels[way, 1])))
    return ways


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
