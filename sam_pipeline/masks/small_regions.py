"""Filling small holes and dropping small islands of masks.

Reproduces `remove_small_regions` of segment_anything/utils/amg.py.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray


def fill_small_holes(mask: NDArray[np.bool_], min_area: int) -> tuple[NDArray[np.bool_], bool]:
    """Fill 8-connected background regions of fewer than `min_area` pixels.

    Returns:
        The (H, W) bool mask and whether it changed.
    """
    regions, areas = _label(~mask)
    small = areas < min_area
    if not small.any():
        return mask, False
    # Region 0 is what was not labelled: the mask.
    return np.concatenate([[True], small])[regions], True


def drop_small_islands(mask: NDArray[np.bool_], min_area: int) -> tuple[NDArray[np.bool_], bool]:
    """Drop 8-connected regions of fewer than `min_area` pixels; the largest one stays if all are small.

    A mask whose only region is small counts as changed although it comes back as it was: the official generator ranks
    such masks behind the untouched ones.

    Returns:
        The (H, W) bool mask and whether it counts as changed.
    """
    regions, areas = _label(mask)
    small = areas < min_area
    if not small.any():
        return mask, False
    if small.all():
        small[np.argmax(areas)] = False
    return np.concatenate([[False], ~small])[regions], True


def _label(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """8-connected regions: their labels from 1 on, (H, W), and their areas in pixels, (regions,)."""
    _, regions, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    return regions.astype(np.int32, copy=False), stats[1:, cv2.CC_STAT_AREA].astype(np.int32, copy=False)
