"""Connected regions of a mask from its runs, so that no mask is drawn. Runs are edges as in `Runs`."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

Edges = NDArray[np.int64]


@numba.njit(nogil=True, cache=True)
def inverse(edges: Edges, num_pixels: int) -> Edges:
    """The runs of all other pixels."""
    inverted = np.empty(len(edges) + 2, np.int64)
    inverted[0] = 0
    inverted[1 : len(edges) + 1] = edges
    inverted[len(edges) + 1] = num_pixels
    first = 2 if len(edges) > 0 and edges[0] == 0 else 0
    last = len(edges) if len(edges) > 0 and edges[-1] == num_pixels else len(edges) + 2
    return inverted[first:last]


@numba.njit(nogil=True, cache=True)
def regions(edges: Edges, height: int, width: int) -> tuple[Edges, NDArray[np.int64], NDArray[np.int64]]:
    """8-connected regions.

    Returns:
        The runs, cut at the feet of columns of `height` pixels; the region of each; the areas of regions in pixels.
    """
    pieces = np.empty(len(edges) + 2 * width, np.int64)
    num_pieces = 0
    for i in range(0, len(edges), 2):
        start = edges[i]
        while start < edges[i + 1]:
            pieces[2 * num_pieces] = start
            start = min(edges[i + 1], (start // height + 1) * height)
            pieces[2 * num_pieces + 1] = start
            num_pieces += 1
    parents = np.arange(num_pieces)
    first = 0  # first piece of the column before that may touch this one
    for piece in range(num_pieces):
        start, end = pieces[2 * piece] - height, pieces[2 * piece + 1] - height  # moved into the column before
        head = start // height * height
        while first < piece and pieces[2 * first + 1] < max(start, head + 1):
            first += 1
        other = first
        while other < piece and pieces[2 * other] <= end and pieces[2 * other] < head + height:
            one, two = _root(parents, piece), _root(parents, other)
            parents[max(one, two)] = min(one, two)
            other += 1
    numbers = np.empty(num_pieces, np.int64)
    areas = np.zeros(num_pieces, np.int64)
    num_regions = 0
    for piece in range(num_pieces):
        root = _root(parents, piece)
        if root == piece:
            numbers[piece] = num_regions
            num_regions += 1
        numbers[piece] = numbers[root]
        areas[numbers[piece]] += pieces[2 * piece + 1] - pieces[2 * piece]
    return pieces[: 2 * num_pieces], numbers, areas[:num_regions]


@numba.njit(nogil=True, cache=True)
def chosen(pieces: Edges, numbers: NDArray[np.int64], choice: NDArray[np.bool_]) -> Edges:
    """The runs of chosen regions."""
    edges = np.empty(len(pieces), np.int64)
    num_edges = 0
    for piece in range(len(numbers)):
        if not choice[numbers[piece]]:
            continue
        if num_edges > 0 and edges[num_edges - 1] == pieces[2 * piece]:
            num_edges -= 1  # goes on from the column before
        else:
            edges[num_edges] = pieces[2 * piece]
            num_edges += 1
        edges[num_edges] = pieces[2 * piece + 1]
        num_edges += 1
    return edges[:num_edges].copy()


@numba.njit(nogil=True, cache=True)
def box(edges: Edges, height: int) -> tuple[int, int, int, int]:
    """Around a mask: xyxy, inclusive; zeros for an empty one."""
    if len(edges) == 0:
        return 0, 0, 0, 0
    top, bottom = height - 1, 0
    for i in range(0, len(edges), 2):
        start, last = edges[i], edges[i + 1] - 1
        if start // height == last // height:
            top, bottom = min(top, start % height), max(bottom, last % height)
        else:  # through the foot of a column and the head of the next
            top, bottom = 0, height - 1
    return edges[0] // height, top, (edges[-1] - 1) // height, bottom


@numba.njit(nogil=True, cache=True)
def _root(parents: NDArray[np.int64], piece: int) -> int:
    while parents[piece] != piece:
        parents[piece] = parents[parents[piece]]
        piece = parents[piece]
    return piece
