"""Annotations as masks, against pycocotools and against pixels; and what would make pycocotools write out of bounds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as numbers
from pycocotools import mask as coco_mask

from sam_pipeline.evaluation.ground_truth.truth_masks import TruthError, truth_mask
from tests.evaluation.compared import annotation, rectangle

SIZE = (8, 10)
PIXELS = rectangle(2, 1, 3, 4, SIZE)
SQUARE = [[2, 1, 5, 1, 5, 5, 2, 5]]


def pixels_of(segmentation, size=SIZE):
    return coco_mask.decode(truth_mask(annotation(PIXELS, segmentation=segmentation), 1, size)["segmentation"])


def uncompressed(pixels):
    flat = np.concatenate([[False], pixels.ravel(order="F"), [not pixels.ravel(order="F")[-1]]])
    ends = np.flatnonzero(np.diff(flat))
    return {"size": list(pixels.shape), "counts": np.diff(np.concatenate([[0], ends])).tolist()}


@given(numbers.arrays(bool, st.tuples(st.integers(1, 20), st.integers(1, 20))))
@settings(deadline=None)
def test_run_lengths_compressed_and_not(pixels):
    compressed = annotation(pixels)["segmentation"]
    for segmentation in (compressed, uncompressed(pixels)):
        np.testing.assert_array_equal(pixels_of(segmentation, pixels.shape), pixels)


def test_polygons_are_drawn_together():
    np.testing.assert_array_equal(pixels_of(SQUARE), PIXELS)
    both = PIXELS | rectangle(7, 6, 2, 2, SIZE)
    np.testing.assert_array_equal(pixels_of([*SQUARE, [7, 6, 9, 6, 9, 8, 7, 8]]), both)
    np.testing.assert_array_equal(pixels_of([*SQUARE, [1, 1, 2, 2], []]), PIXELS)


@pytest.mark.parametrize("nothing", [None, [], {}, [[]], [[1, 2, 3, 4]]])
def test_a_box_alone(nothing):
    found = truth_mask({"category_id": 1, "bbox": [1, 2, 3, 4.5], "segmentation": nothing}, 1, SIZE)
    assert found["segmentation"] is None
    assert (found["bbox"], found["area"]) == ([1, 2, 3, 4.5], 13.5)


def test_area_and_box_are_the_files_or_else_those_of_the_mask():
    given_ = truth_mask(annotation(PIXELS, area=77, bbox=[0, 0, 9, 9]), 1, SIZE)
    assert (given_["area"], given_["bbox"]) == (77, [0, 0, 9, 9])
    derived = truth_mask(annotation(PIXELS, area=None, bbox=None), 1, SIZE)
    assert (derived["area"], derived["bbox"]) == (12, [2, 1, 3, 4])


@pytest.mark.parametrize(("value", "iscrowd"), [(1, 1), (True, 1), (0, 0), (None, 0), ("1", 0)])
def test_crowds(value, iscrowd):
    assert truth_mask(annotation(PIXELS, iscrowd=value), 1, SIZE)["iscrowd"] == iscrowd


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"segmentation": None, "bbox": None}, "neither a mask nor a bbox"),
        ({"bbox": [1, 2, 3]}, "bbox is not"),
        ({"bbox": [1, 2, -3, 4]}, "bbox is not"),
        ({"bbox": [1, 2, float("nan"), 4]}, "bbox is not"),
        ({"area": -1}, "its area is -1"),
        ({"area": 1.1e10}, r"its area is 1.1e\+10"),
        ({"bbox": [0, 0, 1e6, 1e6], "area": None, "segmentation": None}, r"its area is 1e\+12"),
        ({"segmentation": "RLE"}, "neither polygons nor RLE"),
        ({"segmentation": [1, 2, 3, 4, 5, 6]}, "its polygons"),
        ({"segmentation": [[1, 2, 3, 4, 5, 6, 7]]}, "its polygons"),
        ({"segmentation": [[1, 2, 3, 4, 5, "6"]]}, "its polygons"),
        ({"segmentation": [[1, 2, 3, 4, 5, 1e300]]}, "its polygons"),
        ({"segmentation": [[1, 2, 3, 4, 5, float("nan")]]}, "its polygons"),
        ({"segmentation": {"size": [10, 8], "counts": [80]}}, r"size \[10, 8\], and its image \[8, 10\]"),
        ({"segmentation": {"size": [8, 10], "counts": [79]}}, "do not add up"),
        ({"segmentation": {"size": [8, 10], "counts": [90, -10]}}, "do not add up"),
        ({"segmentation": {"size": [8, 10], "counts": [1.5, 78.5]}}, "do not add up"),
        ({"segmentation": {"size": [8, 10], "counts": None}}, "do not add up"),
        ({"segmentation": {"size": [8, 10], "counts": ""}}, "do not add up"),
        ({"segmentation": {"size": [8, 10], "counts": "oo"}}, "do not add up"),  # a number that does not end
        ({"segmentation": {"size": [8, 10], "counts": "ooooooooo0"}}, "do not add up"),  # one of fifty bits
        ({"segmentation": {"size": [8, 10], "counts": "\x00"}}, "do not add up"),
        ({"segmentation": {"size": [8, 10], "counts": "é"}}, "do not add up"),
        ({"segmentation": {"size": [8, 10], "counts": "``P1"}}, "do not add up"),
    ],
)
def test_what_is_not_as_the_format_says(changes, message):
    with pytest.raises(TruthError, match=message):
        truth_mask(annotation(PIXELS) | changes, 1, SIZE)
