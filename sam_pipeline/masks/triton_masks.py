"""Thresholding masks at full resolution on a CUDA device; the algorithm of `mask_kernels`, with its results to the bit.

L masks, R x S low-resolution logits, H x W pixels.
"""

from __future__ import annotations

import numpy as np
import torch
import triton
import triton.language as tl
from numpy.typing import NDArray
from torch import Tensor

from sam_pipeline.masks.composed_resize import Axis

_CELLS = 32
"""Cells looked at together. If one of them needs its pixels computed, all have theirs computed."""
_ROWS = 16
"""Rows of their pixels computed together: cells of a 4096-pixel image have 16."""


def measure_masks(
    low_res_masks: Tensor, rows: Axis, columns: Axis, threshold: float, offset: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """See `mask_kernels.measure_masks`; low_res_masks is (L, R, S) float32 on a CUDA device."""
    device = low_res_masks.device
    logits = low_res_masks.contiguous()
    L, R, S = logits.shape
    nothing = torch.tensor([0, 0, len(columns.starts), len(rows.starts), -1, -1], dtype=torch.int32, device=device)
    results = nothing.repeat(L, 1)
    if L > 0:
        axes = [
            torch.from_numpy(values).to(device)
            for axis in (rows, columns)
            for values in (axis.starts, axis.weights, axis.groups)
        ]
        thresholds = (float(np.float32(value)) for value in (threshold, threshold + offset, threshold - offset))
        # Products and sums rounded one by one, as on a CPU.
        _measure[(L, len(rows.groups) - 1)](
            logits, *axes, results, R, S, len(columns.groups) - 1, *thresholds,
            CELLS=_CELLS, ROWS=_ROWS, num_warps=1, enable_fp_fusion=False,
        )  # fmt: skip
    counts, boxes = np.split(results.cpu().numpy().astype(np.int64), [2], axis=1)
    return counts, np.where(boxes[:, 2:3] < 0, 0, boxes)


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
