"""Grids of point prompts, in shares of the image's width and height.

Reproduces `build_point_grid` and `build_all_layer_point_grids` of segment_anything/utils/amg.py.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def build_point_grid(n_per_side: int) -> NDArray[np.float64]:
    """Centres of n × n equal cells, row by row.

    Returns:
        (n * n, 2) float64, x and y in (0, 1).
    """
    offset = 1 / (2 * n_per_side)
    centres = np.linspace(offset, 1 - offset, n_per_side)
    x, y = np.meshgrid(centres, centres)
    return np.stack([x, y], axis=-1).reshape(-1, 2)


def build_all_layer_point_grids(n_per_side: int, n_layers: int, scale_per_layer: int) -> list[NDArray[np.float64]]:
    """One grid for the whole image and one for each crop layer; layer i has n_per_side / scale_per_layer**i a side."""
    return [build_point_grid(int(n_per_side / scale_per_layer**layer)) for layer in range(n_layers + 1)]
