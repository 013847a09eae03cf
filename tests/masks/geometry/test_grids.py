import numpy as np
import pytest

from sam_pipeline.masks.geometry.grids import build_all_layer_point_grids, build_point_grid
from tests.parity.oracle import official_module


@pytest.mark.parametrize(("n_per_side", "n_layers", "scale"), [(32, 0, 1), (32, 2, 2), (7, 1, 3), (1, 0, 1)])
def test_grids_are_the_official_ones(n_per_side, n_layers, scale):
    official = official_module("utils.amg").build_all_layer_point_grids(n_per_side, n_layers, scale)
    ours = build_all_layer_point_grids(n_per_side, n_layers, scale)
    assert len(ours) == len(official)
    for ours_grid, official_grid in zip(ours, official, strict=True):
        np.testing.assert_array_equal(ours_grid, official_grid)


def test_a_grid_runs_along_rows_through_cell_centres():
    assert build_point_grid(2).tolist() == [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]
