"""Filling small holes and dropping small islands of masks.

Reproduces `remove_small_regions` of segment_anything/utils/amg.py.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from sam_pipeline.masks.runs import region_kernels
from sam_pipeline.masks.runs.runs import Runs


def fill_small_holes(mask: Runs, min_area: float) -> tuple[Runs, bool]:
    """Fill 8-connected background regions of fewer than `min_area` pixels.

    Returns:
        The mask and whether it changed.
    """
    height, width = mask.size
    background = region_kernels.inverse(mask.edges, height * width)
    pieces, numbers, areas = region_kernels.regions(background, height, width)
    small = areas < min_area
    if not small.any():
        return mask, False
    kept = region_kernels.chosen(pieces, numbers, ~small)
    return Runs(mask.size, region_kernels.inverse(kept, height * width)), True


def drop_small_islands(mask: Runs, min_area: float) -> tuple[Runs, bool]:
    """Drop 8-connected regions of fewer than `min_area` pixels; the largest one stays if all are small.

    A mask whose only region is small counts as changed although it comes back as it was: the official generator ranks
    such masks behind the untouched ones.

    Returns:
        The mask and whether it counts as changed.
    """
    pieces, numbers, areas = region_kernels.regions(mask.edges, *mask.size)
    small = areas < min_area
    if not small.any():
        return mask, False
    if small.all():
        if (areas == areas.max()).sum() > 1:
            return Runs.of_mask(_first_of_the_largest(mask.to_mask())), True
        small[np.argmax(areas)] = False
    return Runs(mask.size, region_kernels.chosen(pieces, numbers, ~small)), True


def _first_of_the_largest(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The largest region of an (H, W) mask; of equals the one that OpenCV finds first, as the official code does."""
    _, regions, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    # Region 0 is what was not labelled.
    largest: NDArray[np.bool_] = regions == 1 + np.argmax(stats[1:, cv2.CC_STAT_AREA])
    return largest
