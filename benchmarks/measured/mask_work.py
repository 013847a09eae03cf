"""How much the kernel that measures masks has to do: counted from the logits, not guessed."""

from __future__ import annotations

from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from benchmarks.photographs import skimage_photograph
from sam_pipeline.config import MaskConfig
from sam_pipeline.masks.full_resolution.composed_resize import Axis
from sam_pipeline.masks.full_resolution.upscaling import Upscaling
from sam_pipeline.masks.generator import MaskGenerator
from sam_pipeline.model.checkpoints import fetch_checkpoint
from sam_pipeline.model.registry import build_sam


class MeasuredWork(NamedTuple):
    """Of a launch of `_measure`, all its programs together."""

    cells: int
    mixed_cells: int
    computed_pixels: int
    """Of mixed cells."""
    iterations: tuple[int, int, int, int]
    """Of its loops: rows of cells, groups of listed cells, columns of their pixels, pixels of those."""


def detect_masks(photograph: str, size: tuple[int, int], points_per_side: int) -> Tensor:
    """Logits of all masks of a photograph that vit_t predicts well, and that `detect` measures.

    Args:
        photograph: one of scikit-image's, by file name.
        size: (H, W) that it is resized to.
        points_per_side: of the grid of points.

    Returns:
        (L, 4 * rows, 256) float32, on the CPU.
    """
    with Image.open(skimage_photograph(photograph)) as opened:
        image = np.asarray(opened.convert("RGB").resize(size[::-1], Image.Resampling.BICUBIC))
    sam = build_sam("vit_t", fetch_checkpoint("vit_t", progress=False))
    measure, found = Upscaling.measure, []

    def measure_and_keep(upscaling: Upscaling, low_res_masks: Tensor, offset: float) -> Any:
        found.append(low_res_masks)
        return measure(upscaling, low_res_masks, offset)

    with mock.patch.object(Upscaling, "measure", measure_and_keep):
        MaskGenerator(sam, MaskConfig(points_per_side=points_per_side)).generate(image)
    return torch.cat(found)


def measured_work(
    low_res_masks: NDArray[np.float32], rows: Axis, columns: Axis, offset: float, arguments: dict[str, Any]
) -> MeasuredWork:
    """Count what a launch does.

    Args:
        low_res_masks: logits, (L, R, S).
        rows: weights of the rows of pixels.
        columns: weights of the columns of pixels.
        offset: of the thresholds around 0.
        arguments: of the launch: how its work is cut.
    """
    ROWS, COLUMNS, LANES, PIXELS = (arguments[name] for name in ("ROWS", "COLUMNS", "LANES", "PIXELS"))
    heights, widths = (np.bincount(axis.starts) for axis in (rows, columns))
    rows_of_cells = chunks = pixel_columns = pixels = cells = mixed_cells = computed = 0
    for logits in low_res_masks:
        mixed = _mixed_cells(logits[: len(heights) + 2, : len(widths) + 2], offset)
        mixed &= (heights[:, None] > 0) & (widths > 0)
        cells += mixed.size
        mixed_cells += int(mixed.sum())
        computed += int((mixed * heights[:, None] * widths).sum())
        for top in range(0, len(heights), ROWS):
            for left in range(0, len(widths), COLUMNS):
                tile = mixed[top : top + ROWS, left : left + COLUMNS]
                rows_of_cells += len(tile)
                i, j = tile.nonzero()
                height = _largest(heights[top + i], LANES)
                width = -(-_largest(widths[left + j], LANES) // PIXELS)
                chunks += len(width)
                pixel_columns += int(width.sum())
                pixels += int((width * height).sum())
    return MeasuredWork(cells, mixed_cells, computed, (rows_of_cells, chunks, pixel_columns, pixels))


def edges_iterations(
    low_res_masks: NDArray[np.float32], rows: Axis, columns: Axis, columns_a_program: int
) -> tuple[int, int, int]:
    """How often the loops of `_edges` run, all its programs together: over groups of rows, and over rows of pixels.

    The compiler makes two of the latter: four rows at a time, and what is left.

    Args:
        low_res_masks: logits, (L, R, S).
        rows: weights of the rows of pixels.
        columns: weights of the columns of pixels.
        columns_a_program: columns of pixels that are followed together.
    """
    heights = np.diff(rows.groups)[:, None]
    groups = fours = ones = 0
    for logits in low_res_masks:
        mixed = _mixed_cells(logits, 0.0)[rows.starts[rows.groups[:-1]]][:, columns.starts]
        any_mixed = np.logical_or.reduceat(mixed, range(0, len(columns.starts), columns_a_program), axis=1)
        followed = np.where(any_mixed, heights, 1)
        groups += followed.size
        fours += int((followed // 4).sum())
        ones += int((followed % 4).sum())
    return groups, fours, ones


def _mixed_cells(logits: NDArray[np.float32], offset: float) -> NDArray[np.bool_]:
    """Which 3 x 3 of logits do not decide their pixels, (R - 2, S - 2)."""
    nine = sliding_window_view(logits, (3, 3))
    smallest, largest = nine.min(axis=(2, 3)), nine.max(axis=(2, 3))
    decided: NDArray[np.bool_] = (smallest > offset) | (largest <= -offset)
    decided &= np.isfinite(smallest) & np.isfinite(largest)
    return ~decided


def _largest(values: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Of each `size` neighbours."""
    largest: NDArray[np.int64] = np.pad(values, (0, -len(values) % size)).reshape(-1, size).max(axis=1)
    return largest
