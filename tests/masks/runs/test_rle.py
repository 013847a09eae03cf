import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco_mask

from sam_pipeline.masks.runs import rle
from sam_pipeline.masks.runs.runs import Runs

masks = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12))


@given(masks)
def test_a_mask_survives_and_pycocotools_agrees(mask):
    encoded = rle.encode(Runs.of_mask(mask))
    theirs = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    assert encoded == {"size": list(mask.shape), "counts": theirs["counts"].decode()}
    decoded = rle.decode(encoded)
    assert decoded.dtype == bool
    np.testing.assert_array_equal(decoded, mask)
    assert json.loads(json.dumps(encoded)) == encoded


@pytest.mark.parametrize("fill", [False, True])
def test_long_runs_compress_as_in_pycocotools(fill):
    mask = np.full((70_001, 300), fill)
    mask[-1, -1] = mask[5, 7] = not fill
    theirs = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    assert rle.encode(Runs.of_mask(mask))["counts"] == theirs["counts"].decode()


@given(masks)
def test_a_mask_is_drawn_with_its_box_and_area_as_by_pycocotools(mask):
    theirs = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    pixels = np.zeros(mask.shape, np.uint8)
    box, area = rle.draw(rle.encode(Runs.of_mask(mask)), pixels)
    np.testing.assert_array_equal(pixels.view(bool), mask)
    x, y, w, h = coco_mask.toBbox(theirs).tolist()
    assert (box, area) == ((x, y, x + w, y + h) if area else (0, 0, 0, 0), coco_mask.area(theirs))


@pytest.mark.parametrize("counts", ["", "0", "05", "ooo", "0oooooooooooooooooooo", "0\x7f\x7f", "!!!", "?0?0?0?0"])
def test_counts_that_are_none_draw_nothing_outside(counts):
    framed = np.zeros((3 * 8, 7), np.uint8)
    box, area = rle.draw({"size": [8, 7], "counts": counts}, framed[8:16])
    assert not framed[:8].any()
    assert not framed[16:].any()
    assert area == framed.sum()
    assert 0 <= box[0] <= box[2] <= 7
    with pytest.raises(ValueError, match=r"a mask of \[8, 7\] pixels cannot be drawn in \[7, 8\]"):
        rle.draw({"size": [8, 7], "counts": counts}, np.zeros((7, 8), np.uint8))


def test_long_runs_are_drawn_as_by_pycocotools():
    mask = np.ones((70_001, 300), np.uint8)
    mask[5:10, 7] = 0
    pixels = np.zeros(mask.shape, np.uint8)
    coded = coco_mask.encode(np.asfortranarray(mask))
    box, area = rle.draw({"size": [70_001, 300], "counts": coded["counts"].decode()}, pixels)
    assert (box, area) == ((0, 0, 300, 70_001), 70_001 * 300 - 5)
    assert np.array_equal(pixels, mask)
