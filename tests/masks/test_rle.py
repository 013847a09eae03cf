import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco_mask

from sam_pipeline.masks import rle

masks = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12))


@given(masks)
def test_a_mask_survives_and_pycocotools_agrees(mask):
    encoded = rle.encode(mask)
    theirs = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    assert encoded == {"size": list(mask.shape), "counts": theirs["counts"].decode()}
    decoded = rle.decode(encoded)
    assert decoded.dtype == bool
    np.testing.assert_array_equal(decoded, mask)
    assert rle.area(encoded) == mask.sum()
    assert json.loads(json.dumps(encoded)) == encoded


def test_views_encode_as_their_copies():
    mask = np.random.default_rng(0).random((9, 14)) < 0.5
    assert rle.encode(mask.T[::2]) == rle.encode(mask.T[::2].copy())


@given(masks, st.integers(0, 5), st.integers(0, 5), st.integers(0, 5), st.integers(0, 5))
def test_uncrop_pads_with_background(mask, left, top, right, bottom):
    height, width = mask.shape
    box = (left, top, left + width, top + height)
    placed = rle.uncrop(rle.encode(mask), box, (top + height + bottom, left + width + right))
    assert placed == rle.encode(np.pad(mask, ((top, bottom), (left, right))))


def test_uncropping_the_whole_image_costs_nothing():
    encoded = rle.encode(np.ones((3, 4), bool))
    assert rle.uncrop(encoded, (0, 0, 4, 3), (3, 4)) is encoded


@pytest.mark.parametrize(("fill", "area"), [(False, 0), (True, 6)])
def test_uniform_masks(fill, area):
    assert rle.area(rle.encode(np.full((2, 3), fill))) == area
