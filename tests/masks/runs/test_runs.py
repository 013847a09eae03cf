import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sam_pipeline.masks.runs.runs import Runs

masks = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12))


@given(masks)
def test_runs_hold_the_mask(mask):
    runs = Runs.of_mask(mask)
    assert runs.size == mask.shape
    assert (np.diff(runs.edges) > 0).all()
    assert runs.area() == mask.sum()
    restored = runs.to_mask()
    assert restored.dtype == bool
    np.testing.assert_array_equal(restored, mask)


def test_pixels_are_numbered_down_the_columns():
    mask = np.array([[0, 1, 1], [1, 1, 0]], bool)
    assert Runs.of_mask(mask).edges.tolist() == [1, 5]


def test_views_are_read_as_their_copies():
    mask = np.random.default_rng(0).random((9, 14)) < 0.5
    assert Runs.of_mask(mask.T[::2]).edges.tolist() == Runs.of_mask(mask.T[::2].copy()).edges.tolist()


@given(masks, st.integers(0, 5), st.integers(0, 5), st.integers(0, 5), st.integers(0, 5))
def test_uncrop_pads_with_background(mask, left, top, right, bottom):
    height, width = mask.shape
    box = (left, top, left + width, top + height)
    placed = Runs.of_mask(mask).uncrop(box, (top + height + bottom, left + width + right))
    expected = Runs.of_mask(np.pad(mask, ((top, bottom), (left, right))))
    assert placed.size == expected.size
    assert placed.edges.tolist() == expected.edges.tolist()


@pytest.mark.parametrize(("fill", "edges"), [(False, []), (True, [0, 6])])
def test_uniform_masks(fill, edges):
    assert Runs.of_mask(np.full((2, 3), fill)).edges.tolist() == edges


@pytest.mark.parametrize("dtype", ["uint8", "int64", "float32"])
def test_other_types_than_bool_are_refused(dtype):
    with pytest.raises(TypeError, match=f"bool, got {dtype}"):
        Runs.of_mask(np.ones((2, 3), dtype))
