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
