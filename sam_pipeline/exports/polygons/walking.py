"""One closed line along several rings and the bridges between them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from sam_pipeline.exports.polygons.bridges import Bridge, Place
from sam_pipeline.exports.polygons.rings import Line

Ways = Mapping[int, Sequence[tuple[int, Place]]]
"""For each line that has bridges, the point at which each one begins, and where it ends."""


def ways_of(bridges: Iterable[Bridge]) -> Ways:
    """The bridges as they leave each line."""
    ways: dict[int, list[tuple[int, Place]]] = defaultdict(list)
    for one, other in bridges:
        ways[one[0]].append((one[1], other))
        ways[other[0]].append((other[1], one))
    return ways


def walk(lines: Sequence[Line], ways: Ways, start: int, simplify: float) -> Line:
    """The closed line that begins with one of some lines and goes over each bridge that it meets, there and back.

    Args:
        lines: closed.
        ways: between them; they form no cycle.
        start: the line to begin with.
        simplify: how far, in the unit of the lines, the new one may stray from them.
    """
    if start not in ways:
        return _simplify_ring(lines[start], simplify)
    pieces: list[Line] = []
    visited = {start}
    # What is still to be walked, the next on top: a piece, or a closed line with the point at which it is entered.
    to_do: list[Line | Place] = [(start, ways[start][0][0])]
    while to_do:
        task = to_do.pop()
        if not isinstance(task, tuple):
            pieces.append(task)
            continue
        line, entry = task
        leaving: dict[int, list[Place]] = defaultdict(list)
        for point, end in ways[line]:
            if end[0] not in visited:
                visited.add(end[0])
                leaving[point].append(end)
        to_do += reversed(_around(lines[line], entry, leaving, simplify))
    return np.concatenate(pieces)


def _around(line: Line, entry: int, leaving: Mapping[int, Sequence[Place]], simplify: float) -> list[Line | Place]:
    """The pieces of a closed line from its entry around to it again, and what is to be visited between them."""
    length = len(line)
    stops = sorted({0, *((point - entry) % length for point in leaving)})
    around = np.concatenate([line[entry:], line[: entry + 1]])
    tasks: list[Line | Place] = []
    for stop, end in zip(stops, [*stops[1:], length], strict=True):
        for place in leaving.get((entry + stop) % length, ()):
            tasks += [around[stop : stop + 1], place]
        tasks.append(_simplify_piece(around[stop : end + 1], simplify))
    return tasks


def _simplify_ring(line: Line, tolerance: float) -> Line:
    """A closed line with fewer points; with all its corners where nothing with an area would be left."""
    corners = _corners(np.concatenate([line, line[:1]]))[:-1]
    if len(corners) > 2 and not _turns(corners[[-1, 0, 1]])[0]:
        corners = corners[1:]  # it began in the middle of a side
    if tolerance > 0 and len(corners) > 2:
        simpler = _simplify(corners, tolerance, closed=True)
        if _has_area(simpler):
            return simpler
    return corners


def _simplify_piece(piece: Line, tolerance: float) -> Line:
    """A line with fewer points, whose ends stay."""
    corners = _corners(piece)
    if tolerance <= 0 or len(corners) < 3:
        return corners
    if (corners[0] != corners[-1]).any():
        return _simplify(corners, tolerance, closed=False)
    # Around a ring: the ends are no line from which a distance could be told, so it is cut at its farthest point.
    farthest = int(((corners - corners[0]) ** 2).sum(axis=1).argmax())
    there, back = (_simplify_piece(part, tolerance) for part in (corners[: farthest + 1], corners[farthest:]))
    simpler = np.concatenate([there[:-1], back])
    return simpler if _has_area(simpler) else corners


def _simplify(line: Line, tolerance: float, *, closed: bool) -> Line:
    return np.asarray(cv2.approxPolyDP(np.ascontiguousarray(line), tolerance, closed=closed)[:, 0], np.int32)


def _has_area(line: Line) -> bool:
    return len(line) > 2 and bool(cv2.contourArea(line) > 0)


def _corners(line: Line) -> Line:
    """A line without its points at which it goes straight on."""
    moves = np.ones(len(line), bool)
    moves[1:] = (line[1:] != line[:-1]).any(axis=1)
    line = np.asarray(line[moves])
    if len(line) < 3:
        return line
    return np.asarray(line[np.concatenate([[True], _turns(line), [True]])])


def _turns(line: Line) -> NDArray[np.bool_]:
    """Whether an open line of n points turns at each of its n - 2 inner ones; turning back is a turn."""
    (x0, y0), (x1, y1) = np.diff(line, axis=0)[:-1].T, np.diff(line, axis=0)[1:].T
    turns: NDArray[np.bool_] = (x0 * y1 != y0 * x1) | (x0 * x1 + y0 * y1 < 0)
    return turns
