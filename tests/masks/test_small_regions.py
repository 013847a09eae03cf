import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sam_pipeline.masks.small_regions import drop_small_islands, fill_small_holes
from tests.parity.oracle import official_module


@pytest.mark.parametrize(("ours", "mode"), [(fill_small_holes, "holes"), (drop_small_islands, "islands")])
@given(
    seed=st.integers(0, 2**32), density=st.floats(0, 1), height=st.integers(1, 20), width=st.integers(1, 20),
    min_area=st.sampled_from([1, 2, 5, 30, 500]),
)  # fmt: skip
def test_small_regions_go_as_in_the_official_code(ours, mode, seed, density, height, width, min_area):
    mask = np.random.default_rng(seed).random((height, width)) < density
    official_mask, official_changed = official_module("utils.amg").remove_small_regions(mask.copy(), min_area, mode)
    repaired, changed = ours(mask, min_area)
    assert repaired.dtype == bool
    np.testing.assert_array_equal(repaired, official_mask)
    assert changed == official_changed


def test_regions_touch_across_corners():
    diagonal = np.eye(6, dtype=bool)
    assert drop_small_islands(diagonal, 6)[1] is False
    assert fill_small_holes(~diagonal, 6)[1] is False


def test_the_largest_of_small_islands_stays():
    mask = np.zeros((5, 9), bool)
    mask[0, 0] = mask[2:4, 3:5] = mask[0, 8] = True
    repaired, changed = drop_small_islands(mask, 100)
    assert changed
    assert repaired.sum() == 4
    assert repaired[2:4, 3:5].all()


def test_a_lone_small_island_counts_as_changed():
    mask = np.zeros((5, 5), bool)
    mask[2, 2] = True
    repaired, changed = drop_small_islands(mask, 10)
    assert changed
    np.testing.assert_array_equal(repaired, mask)
