"""Thresholding masks at full resolution on a CPU, without their full-resolution logits ever being in memory.

A pixel is a convex combination of at most 3 x 3 low-resolution logits, so it lies between their extremes. Where all
nine are on the same side of every threshold, all pixels between them are counted at once; only the others, some
percent, are computed.

L masks, R x S low-resolution logits, H x W pixels.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from sam_pipeline.masks.full_resolution.composed_resize import Axis

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]
AxisArrays = tuple[Ints, Floats, Ints]
"""Starts, weights and groups of an `Axis`."""


def measure_masks(
    low_res_masks: NDArray[np.float32], rows: Axis, columns: Axis, threshold: float, offset: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Count pixels above three thresholds and find boxes.

    Args:
        low_res_masks: (L, R, S) float32, contiguous.
        rows: weights of the H rows.
        columns: weights of the W columns.
        threshold: logit above which a pixel belongs to the mask.
        offset: distance of the two other thresholds.

    Returns:
        Pixels above threshold + offset, and above threshold - offset, (L, 2) int64; boxes, (L, 4) int64 xyxy,
        inclusive, zeros for an empty mask.
    """
    counts = np.zeros((len(low_res_masks), 2), np.int64)
    boxes = np.zeros((len(low_res_masks), 4), np.int64)
    _measure(
        low_res_masks,
        (rows.starts, rows.weights, rows.groups),
        (columns.starts, columns.weights, columns.groups),
        (np.float32(threshold), np.float32(threshold + offset), np.float32(threshold - offset)),
        counts,
        boxes,
    )
    return counts, boxes


def mask_edges(logits: NDArray[np.float32], rows: Axis, columns: Axis, threshold: float) -> NDArray[np.int64]:
    """Where the runs of one mask begin and end, down the columns of its full resolution; see `Runs`.

    Args:
        logits: (R, S) float32.
        rows: weights of the H rows.
        columns: weights of the W columns.
        threshold: logit above which a pixel belongs to the mask.

    Returns:
        (2 * runs,) int64, ascending.
    """
    edges: NDArray[np.int64] = _edges(
        logits,
        (rows.starts, rows.weights, rows.groups),
        (columns.starts, columns.weights, columns.groups),
        np.float32(threshold),
    )
    return edges


@numba.njit(nogil=True, cache=True)
def _pixel(logits: Floats, i: int, j: int, row_weights: Floats, column_weights: Floats) -> np.float32:
    """The logit of one pixel from the 3 x 3 whose first is at (i, j)."""
    value = np.float32(0)
    for k in range(3):
        row = logits[i + k]
        value += row_weights[k] * (
            column_weights[0] * row[j] + column_weights[1] * row[j + 1] + column_weights[2] * row[j + 2]
        )
    return value


@numba.njit(nogil=True, cache=True)
def _column_extremes(logits: Floats, i: int, smallest: Floats, largest: Floats) -> None:
    """Extremes of three logits down each column; NaN where one of them is NaN or infinite: no bound holds there."""
    for j in range(logits.shape[1]):
        a, b, c = logits[i, j], logits[i + 1, j], logits[i + 2, j]
        poison = np.float32(0) * (a + b + c)
        smallest[j] = min(a, min(b, c)) + poison
        largest[j] = max(a, max(b, c)) + poison


@numba.njit(nogil=True, cache=True)
def _all_above(values: Floats, j: int, bound: np.float32) -> bool:
    return bool(values[j] > bound and values[j + 1] > bound and values[j + 2] > bound)


@numba.njit(nogil=True, cache=True)
def _none_above(values: Floats, j: int, bound: np.float32) -> bool:
    return bool(values[j] <= bound and values[j + 1] <= bound and values[j + 2] <= bound)


@numba.njit(nogil=True, cache=True)
def _measure(
    low_res_masks: Floats,
    rows: AxisArrays,
    columns: AxisArrays,
    thresholds: tuple[np.float32, np.float32, np.float32],
    counts: NDArray[np.int64],
    boxes: NDArray[np.int64],
) -> None:
    y_starts, y_weights, y_groups = rows
    x_starts, x_weights, x_groups = columns
    threshold, high, low = thresholds
    smallest = np.empty(low_res_masks.shape[2], np.float32)
    largest = np.empty(low_res_masks.shape[2], np.float32)
    for m in range(len(low_res_masks)):
        logits = low_res_masks[m]
        num_high, num_low = np.int64(0), np.int64(0)
        x0, y0, x1, y1 = len(x_starts), len(y_starts), -1, -1
        for row_group in range(len(y_groups) - 1):
            top, bottom = y_groups[row_group], y_groups[row_group + 1]
            i = y_starts[top]
            _column_extremes(logits, i, smallest, largest)
            for column_group in range(len(x_groups) - 1):
                left, right = x_groups[column_group], x_groups[column_group + 1]
                j = x_starts[left]
                if _none_above(largest, j, low):
                    continue
                if _all_above(smallest, j, high):
                    num_high += (bottom - top) * (right - left)
                    num_low += (bottom - top) * (right - left)
                    x0, y0, x1, y1 = min(x0, left), min(y0, top), max(x1, right - 1), max(y1, bottom - 1)
                    continue
                for y in range(top, bottom):
                    for x in range(left, right):
                        value = _pixel(logits, i, j, y_weights[y], x_weights[x])
                        num_high += value > high
                        num_low += value > low
                        if value > threshold:
                            x0, y0, x1, y1 = min(x0, x), min(y0, y), max(x1, x), max(y1, y)
        counts[m, 0], counts[m, 1] = num_high, num_low
        if x1 >= 0:
            boxes[m, 0], boxes[m, 1], boxes[m, 2], boxes[m, 3] = x0, y0, x1, y1


_OUTSIDE, _INSIDE, _MIXED = 0, 1, 2
# A pixel is computed from three values along its column. If all are further than this share of the largest on one side
# of the threshold, so is the pixel: the weights' sum and five roundings are off by less than 1e-6 of it.
_ROUNDING = np.float32(1e-5)
_TINY = np.float32(1e-30)  # floor of the margin: subnormal numbers are rounded more coarsely


@numba.njit(nogil=True, cache=True)
def _edges(logits: Floats, rows: AxisArrays, columns: AxisArrays, threshold: np.float32) -> NDArray[np.int64]:
    y_starts, y_weights, y_groups = rows
    x_starts, x_weights, x_groups = columns
    height = len(y_starts)
    kinds = _kinds(logits, y_starts, y_groups, threshold)
    changes, num_changes = _changes(kinds)
    edges = np.empty(4096, np.int64)
    num_edges = 0
    inside = False
    for column_group in range(len(x_groups) - 1):
        left, right = x_groups[column_group], x_groups[column_group + 1]
        j = x_starts[left]
        if num_changes[j] == 0 and not inside:
            continue
        for x in range(left, right):
            if num_edges + height >= len(edges):
                edges = np.concatenate((edges, np.empty(len(edges) + height, np.int64)))
            if inside and kinds[0, j] == _OUTSIDE:  # a run that reaches the foot of the column before ends there
                edges[num_edges] = x * height
                num_edges += 1
                inside = False
            for change in range(num_changes[j]):
                group = changes[j, change]
                top, bottom = y_groups[group], y_groups[group + 1]
                kind = kinds[group, j]
                if kind == _MIXED:
                    i = y_starts[top]
                    upper = _along_row(logits[i], j, x_weights[x])
                    middle = _along_row(logits[i + 1], j, x_weights[x])
                    lower = _along_row(logits[i + 2], j, x_weights[x])
                    smallest, largest = min(upper, min(middle, lower)), max(upper, max(middle, lower))
                    margin = _ROUNDING * max(_TINY, max(abs(smallest), abs(largest)))
                    margin += np.float32(0) * (upper + middle + lower)  # NaN: nothing bounds infinite values or NaN
                    if smallest - margin > threshold:
                        kind = _INSIDE
                    elif largest + margin <= threshold:
                        kind = _OUTSIDE
                    else:
                        for y in range(top, bottom):
                            value = y_weights[y, 0] * upper + y_weights[y, 1] * middle + y_weights[y, 2] * lower
                            if (value > threshold) != inside:
                                edges[num_edges] = x * height + y
                                num_edges += 1
                                inside = not inside
                        continue
                if kind != inside:
                    edges[num_edges] = x * height + top
                    num_edges += 1
                    inside = not inside
    if inside:
        edges[num_edges] = height * len(x_starts)
        num_edges += 1
    return edges[:num_edges].copy()


@numba.njit(nogil=True, cache=True)
def _kinds(logits: Floats, y_starts: Ints, y_groups: Ints, threshold: np.float32) -> NDArray[np.uint8]:
    """Which 3 x 3 logits decide all pixels between them, (row groups, S) uint8; the last two columns are outside."""
    num_rows, num_columns = logits.shape
    above = np.empty((num_rows, num_columns), np.uint8)
    for i in range(num_rows):
        for j in range(num_columns):
            # A logit that is NaN or infinite bounds no pixel.
            logit = logits[i, j]
            above[i, j] = np.uint8(logit > threshold) + np.uint8(16) * np.uint8(not abs(logit) < np.inf)
    kinds = np.zeros((len(y_groups) - 1, num_columns), np.uint8)
    sums = np.empty(num_columns, np.uint8)
    for group in range(len(y_groups) - 1):
        i = y_starts[y_groups[group]]
        for j in range(num_columns):
            sums[j] = above[i, j] + above[i + 1, j] + above[i + 2, j]
        for j in range(num_columns - 2):
            nine = np.uint8(sums[j] + sums[j + 1] + sums[j + 2])
            kinds[group, j] = _OUTSIDE if nine == 0 else (_INSIDE if nine == 9 else _MIXED)
    return kinds


@numba.njit(nogil=True, cache=True)
def _changes(kinds: NDArray[np.uint8]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The row groups of each column that are mixed or of another kind than the one above; how many there are."""
    num_groups, num_columns = kinds.shape
    changes = np.empty((num_columns, num_groups), np.int32)
    num_changes = np.zeros(num_columns, np.int32)
    above = np.zeros(num_columns, np.uint8)
    for group in range(num_groups):
        for j in range(num_columns):
            if kinds[group, j] == _MIXED or kinds[group, j] != above[j]:
                changes[j, num_changes[j]] = group
                num_changes[j] += 1
        above = kinds[group]
    return changes, num_changes


@numba.njit(nogil=True, cache=True)
def _along_row(row: Floats, j: int, weights: Floats) -> np.float32:
    """Three neighbouring logits, weighted."""
    value: np.float32 = weights[0] * row[j] + weights[1] * row[j + 1] + weights[2] * row[j + 2]
    return value
