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

_CELLS = 32
"""Cells looked at together. If one of them needs its pixels computed, all have theirs computed."""
_ROWS = 16
"""Rows of their pixels computed together: cells of a 4096-pixel image have 16."""
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
        axes = (*_on_device(rows, device), *_on_device(columns, device))
        thresholds = (float(np.float32(value)) for value in (threshold, threshold + offset, threshold - offset))
        # Triton launches on the current device. Products and sums rounded one by one, as on a CPU.
        with torch.cuda.device_of(logits):  # type: ignore[no-untyped-call]  # torch has no type
            _measure[(L, len(rows.groups) - 1)](
                logits, *axes, results, R, S, len(columns.groups) - 1, *thresholds,
                CELLS=_CELLS, ROWS=_ROWS, num_warps=1, enable_fp_fusion=False,
            )  # fmt: skip
    counts, boxes = np.split(results.cpu().numpy().astype(np.int64), [2], axis=1)
    return counts, np.where(boxes[:, 2:3] < 0, 0, boxes)


def mask_edges(low_res_masks: Tensor, rows: Axis, columns: Axis, threshold: float) -> list[NDArray[np.int64]]:
    """See `mask_kernels.mask_edges`; low_res_masks is (L, R, S) float32 on a CUDA device, L at least 1.

    Returns:
        The edges of each mask, in pinned memory that is filled once the device's stream has come so far.
    """
    device = low_res_masks.device
    logits = low_res_masks.contiguous()
    L, R, S = logits.shape
    H, W = len(rows.starts), len(columns.starts)
    axes = (*_on_device(rows, device), *_on_device(columns, device)[:2])

    def launch(places: Tensor, edges: Tensor, *, writes: bool) -> None:
        with torch.cuda.device_of(logits):  # type: ignore[no-untyped-call]  # as above
            _edges[(triton.cdiv(W, _COLUMNS), L)](
                logits, *axes, places, edges, R, S, H, W, len(rows.groups) - 1, float(np.float32(threshold)),
                COLUMNS=_COLUMNS, WRITES=writes, num_warps=1, enable_fp_fusion=False,
            )  # fmt: skip

    nothing = torch.empty(0, dtype=torch.int64, device=device)
    counts = torch.zeros(L, W, dtype=torch.int64, device=device)
    launch(counts, nothing, writes=False)
    ends = counts.reshape(-1).cumsum(0).reshape(L, W)
    ends_of_masks = ends[:, -1].tolist()  # waits: only now is it known how many there are
    edges = torch.empty(ends_of_masks[-1], dtype=torch.int64, device=device)
    launch(ends - counts, edges, writes=True)
    copied = torch.empty(edges.shape, dtype=torch.int64, pin_memory=device.type == "cuda")
    copied.copy_(edges, non_blocking=True)
    return np.split(copied.numpy(), ends_of_masks[:-1])


@lru_cache(maxsize=64)
def _nothing(W: int, H: int, device: torch.device) -> Tensor:
    """The two counts and the box of a mask without pixels; kept, since it is copied from the host."""
    return torch.tensor([0, 0, W, H, -1, -1], dtype=torch.int32, device=device)


def _on_device(axis: Axis, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    move = _kept_on_device if len(axis.starts) <= LONGEST_KEPT else _move
    return move(axis, device)


def _move(axis: Axis, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    starts, weights, groups = (
        torch.from_numpy(values).to(device) for values in (axis.starts, axis.weights, axis.groups)
    )
    return starts, weights, groups


_kept_on_device = lru_cache(maxsize=64)(_move)


@triton.jit(do_not_specialize=["R", "num_column_groups"])  # compiled once for images of all sizes
def _measure(
    logits: tl.tensor,  # (L, R, S)
    y_starts: tl.tensor,  # these six: see Axis
    y_weights: tl.tensor,
    y_groups: tl.tensor,
    x_starts: tl.tensor,
    x_weights: tl.tensor,
    x_groups: tl.tensor,
    results: tl.tensor,  # in and out: (L, 6) int32, the two counts and the box
    R: tl.tensor,
    S: tl.tensor,
    num_column_groups: tl.tensor,
    threshold: tl.tensor,
    high: tl.tensor,
    low: tl.tensor,
    CELLS: tl.constexpr,
    ROWS: tl.constexpr,
) -> None:
    """Measure the rows of pixels between two rows of logits, cell by cell."""
    mask, row_group = tl.program_id(0), tl.program_id(1)
    top, bottom = tl.load(y_groups + row_group), tl.load(y_groups + row_group + 1)
    nine = logits + mask.to(tl.int64) * R * S + tl.load(y_starts + top) * S
    no_pixel = 0x7FFFFFFF
    num_high, num_low = tl.zeros((CELLS,), tl.int32), tl.zeros((CELLS,), tl.int32)
    x0, y0 = tl.full((CELLS,), no_pixel, tl.int32), tl.full((CELLS,), no_pixel, tl.int32)
    x1, y1 = tl.full((CELLS,), -1, tl.int32), tl.full((CELLS,), -1, tl.int32)
    for first_cell in range(0, num_column_groups, CELLS):
        cells = first_cell + tl.arange(0, CELLS)
        real = cells < num_column_groups
        left = tl.load(x_groups + cells, mask=real, other=0)
        right = tl.load(x_groups + cells + 1, mask=real, other=0)
        corner = nine + tl.load(x_starts + left, mask=real, other=0)

        # All nine logits on one side of every threshold: so are all pixels, unless a logit is no number or infinite.
        smallest = tl.full((CELLS,), float("inf"), tl.float32)
        largest = tl.full((CELLS,), float("-inf"), tl.float32)
        bounded = real
        for k in tl.static_range(9):
            logit = tl.load(corner + k // 3 * S + k % 3, mask=real, other=0.0)
            smallest, largest = tl.minimum(smallest, logit), tl.maximum(largest, logit)
            bounded = bounded & (tl.abs(logit) < float("inf"))
        above = bounded & (smallest > high)
        mixed = real & ~above & ~(bounded & (largest <= low))
        pixels = tl.where(above, (bottom - top) * (right - left), 0)
        num_high, num_low = num_high + pixels, num_low + pixels
        x0, y0 = tl.minimum(x0, tl.where(above, left, no_pixel)), tl.minimum(y0, tl.where(above, top, no_pixel))
        x1, y1 = tl.maximum(x1, tl.where(above, right - 1, -1)), tl.maximum(y1, tl.where(above, bottom - 1, -1))

        for dx in range(0, tl.max(tl.where(mixed, right - left, 0), axis=0)):
            x = left + dx
            inside = mixed & (x < right)
            weight0 = tl.load(x_weights + 3 * x, mask=inside, other=0.0)
            weight1 = tl.load(x_weights + 3 * x + 1, mask=inside, other=0.0)
            weight2 = tl.load(x_weights + 3 * x + 2, mask=inside, other=0.0)
            upper = _along_row(corner, inside, weight0, weight1, weight2)
            middle = _along_row(corner + S, inside, weight0, weight1, weight2)
            lower = _along_row(corner + 2 * S, inside, weight0, weight1, weight2)
            for first_row in range(top, bottom, ROWS):
                y = first_row + tl.arange(0, ROWS)
                in_rows = y < bottom
                value = tl.load(y_weights + 3 * y, mask=in_rows, other=0.0)[:, None] * upper[None, :]
                value += tl.load(y_weights + 3 * y + 1, mask=in_rows, other=0.0)[:, None] * middle[None, :]
                value += tl.load(y_weights + 3 * y + 2, mask=in_rows, other=0.0)[:, None] * lower[None, :]
                here = in_rows[:, None] & inside[None, :]
                num_high += tl.sum((here & (value > high)).to(tl.int32), axis=0)
                num_low += tl.sum((here & (value > low)).to(tl.int32), axis=0)
                belongs = here & (value > threshold)
                y0 = tl.minimum(y0, tl.min(tl.where(belongs, y[:, None], no_pixel), axis=0))
                y1 = tl.maximum(y1, tl.max(tl.where(belongs, y[:, None], -1), axis=0))
                any_belongs = tl.max(belongs.to(tl.int32), axis=0) > 0
                x0 = tl.minimum(x0, tl.where(any_belongs, x, no_pixel))
                x1 = tl.maximum(x1, tl.where(any_belongs, x, -1))

    result = results + mask * 6
    if tl.sum(num_low, axis=0) > 0:
        tl.atomic_add(result, tl.sum(num_high, axis=0))
        tl.atomic_add(result + 1, tl.sum(num_low, axis=0))
        tl.atomic_min(result + 2, tl.min(x0, axis=0))
        tl.atomic_min(result + 3, tl.min(y0, axis=0))
        tl.atomic_max(result + 4, tl.max(x1, axis=0))
        tl.atomic_max(result + 5, tl.max(y1, axis=0))


@triton.jit
def _along_row(
    first: tl.tensor, inside: tl.tensor, weight0: tl.tensor, weight1: tl.tensor, weight2: tl.tensor
) -> tl.tensor:
    """Three neighbouring logits of each cell, weighted."""
    value = weight0 * tl.load(first, mask=inside, other=0.0)
    value += weight1 * tl.load(first + 1, mask=inside, other=0.0)
    return value + weight2 * tl.load(first + 2, mask=inside, other=0.0)


@triton.jit(do_not_specialize=["R", "H", "W", "num_row_groups"])
def _edges(
    logits: tl.tensor,  # (L, R, S)
    y_starts: tl.tensor,  # these five: see Axis
    y_weights: tl.tensor,
    y_groups: tl.tensor,
    x_starts: tl.tensor,
    x_weights: tl.tensor,
    places: tl.tensor,  # (L, W) int64; without WRITES out: the number of edges; else in: where the first one goes
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
    weight0, weight1, weight2 = _weights(x_weights, x, real)
    first_row = logits + tl.load(x_starts + x, mask=real, other=0)
    place = tl.zeros((COLUMNS,), tl.int64)
    if WRITES:
        place += tl.load(places + mask * W + x, mask=real, other=0)
    num_edges = tl.zeros((COLUMNS,), tl.int64)

    # A run goes on from the foot of the column before.
    before = tl.maximum(x - 1, 0)
    before0, before1, before2 = _weights(x_weights, before, real)
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
def _weights(weights: tl.tensor, pixels: tl.tensor, real: tl.tensor) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """The three weights of each pixel along an axis."""
    first = weights + 3 * pixels
    return (
        tl.load(first, mask=real, other=0.0),
        tl.load(first + 1, mask=real, other=0.0),
        tl.load(first + 2, mask=real, other=0.0),
    )


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
    value = tl.load(weights) * upper
    value += tl.load(weights + 1) * middle
    return value + tl.load(weights + 2) * lower
