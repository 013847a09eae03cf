"""Thresholding masks at full resolution on a CUDA device; the algorithm of `mask_kernels`, with its results to the bit.

L masks, R x S low-resolution logits, H x W pixels.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
import triton
import triton.language as tl
from numpy.typing import NDArray
from torch import Tensor

from sam_pipeline.masks.full_resolution.composed_resize import LONGEST_KEPT, Axis
from sam_pipeline.masks.full_resolution.triton_neighbours import extremes, maximum, three, two, weighted

_CELLS = (32, 128)
"""Rows and columns of cells that a program measures. A cell has the pixels whose first logit is the same."""
_LANES = 32
"""Mixed cells whose pixels are computed together: one a thread."""
_PIXELS = 4
"""Columns of pixels that a thread computes together, so that it loads the weights of their rows once."""
_NO_PIXEL = tl.constexpr(0x7FFFFFFF)
"""First row or column of no pixel."""
_OUTSIDE = tl.constexpr(float("nan"))
"""Weights of pixels outside their cell: what is computed with them is above no threshold."""
_COLUMNS = 32
"""Columns of pixels that are followed down together."""


def measure_masks(
    low_res_masks: Tensor, rows: Axis, columns: Axis, threshold: float, offset: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """See `mask_kernels.measure_masks`; low_res_masks is (L, R, S) float32 on a CUDA device."""
    device = low_res_masks.device
    logits = low_res_masks.contiguous()
    L, R, S = logits.shape
    results = _nothing(len(columns.starts), len(rows.starts), device).repeat(L, 1)
    if L > 0:
        (_, y_weights, _, y_ranges), (_, x_weights, _, x_ranges) = _on_device(rows, device), _on_device(columns, device)
        num_rows, num_columns = len(y_ranges), len(x_ranges)
        grid = (L, triton.cdiv(num_rows, _CELLS[0]), triton.cdiv(num_columns, _CELLS[1]))
        mixed_cells = torch.empty(*grid, *_CELLS, dtype=torch.int16, device=device)  # for all, if all are mixed
        thresholds = (float(np.float32(value)) for value in (threshold, threshold + offset, threshold - offset))
        # Triton launches on the current device. Products and sums rounded one by one, as on a CPU.
        with torch.cuda.device_of(logits):  # type: ignore[no-untyped-call]  # torch has no type
            _measure[grid](
                logits, y_weights, y_ranges, x_weights, x_ranges, mixed_cells, results, R, S, num_rows, num_columns,
                *thresholds, ROWS=_CELLS[0], COLUMNS=_CELLS[1], LANES=_LANES, PIXELS=_PIXELS, num_warps=1,
                enable_fp_fusion=False,
            )  # fmt: skip
    counts, boxes = np.split(results.cpu().numpy().astype(np.int64), [2], axis=1)
    return counts, np.where(boxes[:, 2:3] < 0, 0, boxes)


def mask_edges(low_res_masks: Tensor, rows: Axis, columns: Axis, threshold: float) -> list[NDArray[np.int64]]:
    """See `mask_kernels.mask_edges`; low_res_masks is (L, R, S) float32 on a CUDA device, L at least 1.

    Returns:
        The edges of each mask, in pinned memory; valid once the current stream has finished the copy.
    """
    device = low_res_masks.device
    logits = low_res_masks.contiguous()
    L, R, S = logits.shape
    H, W = len(rows.starts), len(columns.starts)
    axes = (*_on_device(rows, device)[:3], *_on_device(columns, device)[:2])

    def launch(places: Tensor, edges: Tensor, *, writes: bool) -> None:
        with torch.cuda.device_of(logits):  # type: ignore[no-untyped-call]  # as above
            _edges[(triton.cdiv(W, _COLUMNS), L)](
                logits, *axes, places, edges, R, S, H, W, len(rows.groups) - 1, float(np.float32(threshold)),
                COLUMNS=_COLUMNS, WRITES=writes, num_warps=1, enable_fp_fusion=False,
            )  # fmt: skip

    nothing = torch.empty(0, dtype=torch.int64, device=device)
    counts = logits.new_empty(L, W, dtype=torch.int64)
    launch(counts, nothing, writes=False)
    ends = counts.reshape(-1).cumsum(0).reshape(L, W)
    ends_of_masks = ends[:, -1].tolist()  # waits: only now is it known how many there are
    edges = torch.empty(ends_of_masks[-1], dtype=torch.int64, device=device)
    launch(ends, edges, writes=True)
    copied = torch.empty(edges.shape, dtype=torch.int64, pin_memory=device.type == "cuda")
    copied.copy_(edges, non_blocking=True)
    return np.split(copied.numpy(), ends_of_masks[:-1])


@lru_cache(maxsize=64)
def _nothing(W: int, H: int, device: torch.device) -> Tensor:
    """The two counts and the box of a mask without pixels; kept, since it is copied from the host."""
    return torch.tensor([0, 0, W, H, -1, -1], dtype=torch.int32, device=device)


def _on_device(axis: Axis, device: torch.device) -> tuple[Tensor, ...]:
    move = _kept_on_device if len(axis.starts) <= LONGEST_KEPT else _move
    return move(axis, device)


def _move(axis: Axis, device: torch.device) -> tuple[Tensor, ...]:
    """Starts, weights, groups; and ranges, (cells, 2) int32: the first pixel of a cell, and the one after its last."""
    bounds = np.searchsorted(axis.starts, np.arange(axis.starts[-1] + 2)).astype(np.int32)
    ranges = np.stack([bounds[:-1], bounds[1:]], axis=1)
    return tuple(torch.from_numpy(array).to(device) for array in (axis.starts, axis.weights, axis.groups, ranges))


_kept_on_device = lru_cache(maxsize=64)(_move)


@triton.jit(do_not_specialize=["R", "S", "num_rows", "num_columns"])  # compiled once for images of all sizes
def _measure(
    logits: tl.tensor,  # (L, R, S)
    y_weights: tl.tensor,  # these four: see Axis and _move
    y_ranges: tl.tensor,
    x_weights: tl.tensor,
    x_ranges: tl.tensor,
    mixed_cells: tl.tensor,  # scratch: (programs, ROWS * COLUMNS) int16, row * COLUMNS + column in the tile
    results: tl.tensor,  # in and out: (L, 6) int32, the two counts and the box
    R: tl.tensor,
    S: tl.tensor,
    num_rows: tl.tensor,  # of cells
    num_columns: tl.tensor,
    threshold: tl.tensor,
    high: tl.tensor,
    low: tl.tensor,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    LANES: tl.constexpr,
    PIXELS: tl.constexpr,
) -> None:
    """Measure a tile of the cells of a mask: list the mixed ones, then compute pixels of those, a cell a thread."""
    mask = tl.program_id(0).to(tl.int64)
    first_row, first_column = tl.program_id(1) * ROWS, tl.program_id(2) * COLUMNS
    program = (mask * tl.num_programs(1) + tl.program_id(1)) * tl.num_programs(2) + tl.program_id(2)
    mixed_cells += program * (ROWS * COLUMNS)
    logits += mask * R * S + first_row * S + first_column
    y_ranges += 2 * first_row
    x_ranges += 2 * first_column
    num_rows, num_columns = tl.minimum(num_rows - first_row, ROWS), tl.minimum(num_columns - first_column, COLUMNS)
    num_mixed, num_decided, x0, y0, x1, y1 = _decide_cells(
        logits, y_ranges, x_ranges, mixed_cells, S, num_rows, num_columns, high, low, COLUMNS, LANES
    )
    tl.debug_barrier()  # the list is read by other threads than have written it
    num_high, num_low = num_decided, num_decided
    pixels = tl.arange(0, PIXELS)[:, None]
    bits = 1 << pixels
    for first in range(0, num_mixed, LANES):
        places = first + tl.arange(0, LANES)
        listed = places < num_mixed
        cells = tl.load(mixed_cells + places, mask=listed, other=0).to(tl.int32)
        rows, columns = cells // COLUMNS, cells % COLUMNS
        corner = logits + rows * S + columns
        a0, a1, a2 = three(corner, listed)
        b0, b1, b2 = three(corner + S, listed)
        c0, c1, c2 = three(corner + 2 * S, listed)
        top, bottom = two(y_ranges + 2 * rows, listed)
        left, right = two(x_ranges + 2 * columns, listed)
        height = tl.max(bottom - top, axis=0)
        for dx in range(0, tl.max(right - left, axis=0), PIXELS):
            x = left[None, :] + dx + pixels
            across0, across1, across2 = three(x_weights + 3 * x, x < right[None, :], _OUTSIDE)
            upper = weighted(across0, across1, across2, a0[None, :], a1[None, :], a2[None, :])
            middle = weighted(across0, across1, across2, b0[None, :], b1[None, :], b2[None, :])
            lower = weighted(across0, across1, across2, c0[None, :], c1[None, :], c2[None, :])
            any_belong = tl.zeros((LANES,), tl.int32)  # a bit for each column
            for dy in range(0, height):
                y = top + dy
                down0, down1, down2 = three(y_weights + 3 * y, y < bottom, _OUTSIDE)
                value = weighted(down0[None, :], down1[None, :], down2[None, :], upper, middle, lower)
                num_high += tl.sum((value > high).to(tl.int32), axis=0)
                num_low += tl.sum((value > low).to(tl.int32), axis=0)
                belong = tl.sum(tl.where(value > threshold, bits, 0), axis=0)
                any_belong |= belong
                y0 = tl.minimum(y0, tl.where(belong > 0, y, _NO_PIXEL))
                y1 = tl.maximum(y1, tl.where(belong > 0, y, -1))
            x0 = tl.minimum(x0, tl.min(tl.where((any_belong & bits) > 0, x, _NO_PIXEL), axis=0))
            x1 = tl.maximum(x1, tl.max(tl.where((any_belong & bits) > 0, x, -1), axis=0))

    result = results + mask * 6
    if tl.sum(num_low, axis=0) > 0:
        tl.atomic_add(result, tl.sum(num_high, axis=0), sem="relaxed")
        tl.atomic_add(result + 1, tl.sum(num_low, axis=0), sem="relaxed")
        tl.atomic_min(result + 2, tl.min(x0, axis=0), sem="relaxed")
        tl.atomic_min(result + 3, tl.min(y0, axis=0), sem="relaxed")
        tl.atomic_max(result + 4, tl.max(x1, axis=0), sem="relaxed")
        tl.atomic_max(result + 5, tl.max(y1, axis=0), sem="relaxed")


@triton.jit
def _decide_cells(
    logits: tl.tensor,  # the first three: of the first cell
    y_ranges: tl.tensor,
    x_ranges: tl.tensor,
    mixed_cells: tl.tensor,  # out
    S: tl.tensor,
    num_rows: tl.tensor,
    num_columns: tl.tensor,
    high: tl.tensor,
    low: tl.tensor,
    COLUMNS: tl.constexpr,
    LANES: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """List the mixed cells of a tile, and measure the others.

    Returns:
        The number of mixed cells; then, (LANES,) int32 each, pixels above all thresholds and the box of those.
    """
    # A lane has every LANES-th column: loads are coalesced, and most sums stay within a lane.
    columns = tl.arange(0, COLUMNS // LANES)[:, None] * LANES + tl.arange(0, LANES)[None, :]
    left, right = two(x_ranges + 2 * columns, columns < num_columns)
    real = left < right
    smallest0, largest0 = extremes(logits + columns, real)
    smallest1, largest1 = extremes(logits + S + columns, real)
    rows_above = tl.zeros_like(left)
    num_pixels = tl.zeros((LANES,), tl.int32)
    y0, y1 = tl.full((LANES,), _NO_PIXEL, tl.int32), tl.full((LANES,), -1, tl.int32)
    num_mixed = 0
    for row in range(0, num_rows):
        top, bottom = tl.load(y_ranges + 2 * row), tl.load(y_ranges + 2 * row + 1)
        smallest2, largest2 = extremes(logits + (row + 2) * S + columns, real)
        smallest = tl.minimum(tl.minimum(smallest0, smallest1), smallest2)
        largest = maximum(maximum(largest0, largest1), largest2)
        smallest0, largest0, smallest1, largest1 = smallest1, largest1, smallest2, largest2
        # All nine logits on one side of every threshold: so are all pixels, unless a logit is no number or infinite.
        has_pixels = real & (top < bottom)
        above = has_pixels & (smallest > high) & (largest < float("inf"))
        none_above = (largest <= low) & (smallest > float("-inf"))
        mixed = (has_pixels & ~above & ~none_above).to(tl.int32)

        rows_above += above.to(tl.int32)
        width = tl.sum(tl.where(above, right - left, 0), axis=0)
        num_pixels += width * (bottom - top)
        y0 = tl.minimum(y0, tl.where(width > 0, top, _NO_PIXEL))
        y1 = tl.maximum(y1, tl.where(width > 0, bottom - 1, -1))

        of_lane = tl.sum(mixed, axis=0)
        places = num_mixed + (tl.cumsum(of_lane, axis=0) - of_lane)[None, :] + tl.cumsum(mixed, axis=0) - mixed
        tl.store(mixed_cells + places, (row * COLUMNS + columns).to(tl.int16), mask=mixed > 0)
        num_mixed += tl.sum(of_lane, axis=0)
    x0 = tl.min(tl.where(rows_above > 0, left, _NO_PIXEL), axis=0)
    x1 = tl.max(tl.where(rows_above > 0, right - 1, -1), axis=0)
    return num_mixed, num_pixels, x0, y0, x1, y1


@triton.jit(do_not_specialize=["R", "H", "W", "num_row_groups"])
def _edges(
    logits: tl.tensor,  # (L, R, S)
    y_starts: tl.tensor,  # these five: see Axis
    y_weights: tl.tensor,
    y_groups: tl.tensor,
    x_starts: tl.tensor,
    x_weights: tl.tensor,
    places: tl.tensor,  # (L, W) int64; without WRITES out: numbers of edges; else in: their running sum
    edges: tl.tensor,  # out: int64
    R: tl.tensor,
    S: tl.tensor,
    H: tl.tensor,
    W: tl.tensor,
    num_row_groups: tl.tensor,
    threshold: tl.tensor,
    COLUMNS: tl.constexpr,
    WRITES: tl.constexpr,
) -> None:
    """Follow some columns of pixels of a mask down, and count their edges or write them."""
    mask = tl.program_id(1).to(tl.int64)
    x = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    real = x < W
    logits += mask * R * S
    weight0, weight1, weight2 = three(x_weights + 3 * x, real)
    first_row = logits + tl.load(x_starts + x, mask=real, other=0)
    place = tl.zeros((COLUMNS,), tl.int64)
    if WRITES:
        before_it = mask * W + x - 1  # where the column's own begin, the one before ends
        place += tl.load(places + before_it, mask=real & (before_it >= 0), other=0)
    num_edges = tl.zeros((COLUMNS,), tl.int64)

    # A run goes on from the foot of the column before.
    before = tl.maximum(x - 1, 0)
    before0, before1, before2 = three(x_weights + 3 * before, real)
    foot = logits + tl.load(x_starts + before, mask=real, other=0) + tl.load(y_starts + H - 1) * S
    upper, middle, lower, all_above, none_above = _nine(foot, S, real, before0, before1, before2, threshold)
    value = _down(upper, middle, lower, y_weights + 3 * (H - 1))
    inside = (x > 0) & (all_above | (~none_above & (value > threshold)))

    for group in range(0, num_row_groups):
        top, bottom = tl.load(y_groups + group), tl.load(y_groups + group + 1)
        corner = first_row + tl.load(y_starts + top) * S
        upper, middle, lower, all_above, none_above = _nine(corner, S, real, weight0, weight1, weight2, threshold)
        mixed = real & ~all_above & ~none_above
        # Where no pixel needs to be computed, an edge can only be at the top.
        for y in range(top, tl.where(tl.max(mixed.to(tl.int32), axis=0) > 0, bottom, top + 1)):
            value = _down(upper, middle, lower, y_weights + 3 * y)
            belongs = all_above | (mixed & (value > threshold))
            changes = real & (belongs != inside)
            if WRITES:
                tl.store(edges + place + num_edges, x.to(tl.int64) * H + y, mask=changes)
            num_edges += changes.to(tl.int64)
            inside = belongs
    ends = (x == W - 1) & inside
    if WRITES:
        tl.store(edges + place + num_edges, (x.to(tl.int64) + 1) * H, mask=ends)
    else:
        tl.store(places + mask * W + x, num_edges + ends.to(tl.int64), mask=real)


@triton.jit
def _along_row(
    first: tl.tensor, real: tl.tensor, weight0: tl.tensor, weight1: tl.tensor, weight2: tl.tensor
) -> tl.tensor:
    """Three neighbouring logits of each pixel, weighted."""
    a, b, c = three(first, real)
    return weighted(weight0, weight1, weight2, a, b, c)


@triton.jit
def _nine(
    corner: tl.tensor,
    S: tl.tensor,
    real: tl.tensor,
    weight0: tl.tensor,
    weight1: tl.tensor,
    weight2: tl.tensor,
    threshold: tl.tensor,
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """Three rows of three logits, weighted along the rows; are all nine above the threshold; is none."""
    all_above, none_above = real, real
    for k in tl.static_range(9):
        logit = tl.load(corner + k // 3 * S + k % 3, mask=real, other=0.0)
        bounded = tl.abs(logit) < float("inf")
        all_above = all_above & bounded & (logit > threshold)
        none_above = none_above & bounded & (logit <= threshold)
    upper = _along_row(corner, real, weight0, weight1, weight2)
    middle = _along_row(corner + S, real, weight0, weight1, weight2)
    lower = _along_row(corner + 2 * S, real, weight0, weight1, weight2)
    return upper, middle, lower, all_above, none_above


@triton.jit
def _down(upper: tl.tensor, middle: tl.tensor, lower: tl.tensor, weights: tl.tensor) -> tl.tensor:
    """Three values along a column, weighted: one row of pixels."""
    return weighted(tl.load(weights), tl.load(weights + 1), tl.load(weights + 2), upper, middle, lower)
