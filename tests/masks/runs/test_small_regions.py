import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sam_pipeline.masks.filters import mask_boxes
from sam_pipeline.masks.runs import region_kernels
from sam_pipeline.masks.runs.runs import Runs
from sam_pipeline.masks.runs.small_regions import drop_small_islands, fill_small_holes
from tests.parity.oracle import official_module


@pytest.mark.parametrize(("ours", "mode"), [(fill_small_holes, "holes"), (drop_small_islands, "islands")])
@given(
    seed=st.integers(0, 2**32), density=st.floats(0, 1), height=st.integers(1, 20), width=st.integers(1, 20),
    min_area=st.sampled_from([1, 2, 5, 30, 500]),
)  # fmt: skip
def test_small_regions_go_as_in_the_official_code(ours, mode, seed, density, height, width, min_area):
    mask = np.random.default_rng(seed).random((height, width)) < density
    official_mask, official_changed = official_module("utils.amg").remove_small_regions(mask.copy(), min_area, mode)
    repaired, changed = ours(Runs.of_mask(mask), min_area)
    assert repaired.edges.tolist() == Runs.of_mask(official_mask).edges.tolist()
    assert changed == official_changed
    box = mask_boxes(torch.from_numpy(official_mask)[None])[0]
    assert region_kernels.box(repaired.edges, height) == tuple(box.tolist())


def test_regions_touch_across_corners():
    diagonal = np.eye(6, dtype=bool)
    assert drop_small_islands(Runs.of_mask(diagonal), 6)[1] is False
    assert fill_small_holes(Runs.of_mask(~diagonal), 6)[1] is False


def test_regions_do_not_touch_from_the_foot_of_a_column_to_the_head_of_the_next_but_one():
    mask = np.zeros((4, 3), bool)
    mask[3, 0] = mask[0, 2] = True
    _, _, areas = region_kernels.regions(Runs.of_mask(mask).edges, 4, 3)
    assert areas.tolist() == [1, 1]


def test_the_largest_of_small_islands_stays():
    mask = np.zeros((5, 9), bool)
    mask[0, 0] = mask[2:4, 3:5] = mask[0, 8] = True
    repaired, changed = drop_small_islands(Runs.of_mask(mask), 100)
    assert changed
    assert repaired.area() == 4
    assert repaired.to_mask()[2:4, 3:5].all()


def test_a_lone_small_island_counts_as_changed():
    mask = np.zeros((5, 5), bool)
    mask[2, 2] = True
    repaired, changed = drop_small_islands(Runs.of_mask(mask), 10)
    assert changed
    np.testing.assert_array_equal(repaired.to_mask(), mask)
