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

from sam_pipeline.masks.composed_resize import Axis

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]


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
        rows.starts, rows.weights, rows.groups,
        columns.starts, columns.weights, columns.groups,
        np.float32(threshold), np.float32(threshold + offset), np.float32(threshold - offset),
        counts, boxes,
    )  # fmt: skip
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
        rows.starts, rows.weights, rows.groups,
        columns.starts, columns.weights, columns.groups,
        np.float32(threshold),
    )  # fmt: skip
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
    """Extremes of three logits down each column; NaN where one of them is none or infinite: no bound holds there."""
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
    y_starts: Ints,
    y_weights: Floats,
    y_groups: Ints,
    x_starts: Ints,
    x_weights: Floats,
    x_groups: Ints,
    threshold: np.float32,
    high: np.float32,
    low: np.float32,
    counts: NDArray[np.int64],
    boxes: NDArray[np.int64],
) -> None:
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


@numba.njit(nogil=True, cache=True)
def _edges(
    logits: Floats,
    y_starts: Ints,
    y_weights: Floats,
    y_groups: Ints,
    x_starts: Ints,
    x_weights: Floats,
    x_groups: Ints,
    threshold: np.float32,
) -> NDArray[np.int64]:
    height = len(y_starts)
    # Which 3 x 3 logits decide all pixels between them, down the columns, as they are read below.
    kinds = np.empty((logits.shape[1] - 2, len(y_groups) - 1), np.int8)
    smallest = np.empty(logits.shape[1], np.float32)
    largest = np.empty(logits.shape[1], np.float32)
    for group in range(len(y_groups) - 1):
        _column_extremes(logits, y_starts[y_groups[group]], smallest, largest)
        for j in range(len(kinds)):
            if _none_above(largest, j, threshold):
                kinds[j, group] = _OUTSIDE
            elif _all_above(smallest, j, threshold):
                kinds[j, group] = _INSIDE
            else:
                kinds[j, group] = _MIXED
    edges = np.empty(1024, np.int64)
    num_edges = 0
    inside = False
    for x in range(len(x_starts)):
        j = x_starts[x]
        for group in range(len(y_groups) - 1):
            kind = kinds[j, group]
            if kind == inside:
                continue
            top, bottom = y_groups[group], y_groups[group + 1]
            if num_edges + bottom - top > len(edges):
                edges = np.concatenate((edges, np.empty(len(edges) + bottom - top, np.int64)))
            if kind != _MIXED:
                edges[num_edges] = x * height + top
                num_edges += 1
                inside = not inside
                continue
            i = y_starts[top]
            for y in range(top, bottom):
                if (_pixel(logits, i, j, y_weights[y], x_weights[x]) > threshold) != inside:
                    edges[num_edges] = x * height + y
                    num_edges += 1
                    inside = not inside
    edges = edges[:num_edges]
    if inside:
        edges = np.append(edges, height * len(x_starts))
    return edges.copy()
