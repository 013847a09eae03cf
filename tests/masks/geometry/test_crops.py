import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sam_pipeline.config import MaskConfig
from sam_pipeline.masks.geometry.crops import generate_crop_boxes, prepare_crops
from sam_pipeline.masks.geometry.resize import resize_image
from tests.parity.oracle import official_module


@given(
    height=st.integers(1, 5000),
    width=st.integers(1, 5000),
    n_layers=st.integers(0, 3),
    overlap_ratio=st.floats(0, 1, exclude_max=True),
)
def test_crop_boxes_are_the_official_ones_that_hold_a_pixel(height, width, n_layers, overlap_ratio):
    boxes, layers = official_module("utils.amg").generate_crop_boxes((height, width), n_layers, overlap_ratio)
    official = [(tuple(box), layer) for box, layer in zip(boxes, layers, strict=True)]
    expected = [(box, layer) for box, layer in official if box[0] < box[2] and box[1] < box[3]]
    ours = generate_crop_boxes((height, width), n_layers, overlap_ratio)
    assert list(zip(*ours, strict=True)) == expected
    if min(height, width) > 100:
        assert expected == official


def test_a_one_pixel_image_has_no_empty_crops():
    boxes, layers = generate_crop_boxes((1, 1), 2, 512 / 1500)
    assert boxes == [(0, 0, 1, 1)] * 3
    assert layers == [0, 1, 2]


@pytest.mark.parametrize("given_as", [np.asarray, Image.fromarray])
def test_prepare_crops_cuts_and_resizes_each_box(given_as):
    image = np.random.default_rng(0).integers(0, 256, (90, 140, 3), dtype=np.uint8)
    config = MaskConfig(crop_n_layers=1)
    crops = prepare_crops(given_as(image), config, img_size=128)
    boxes, _ = generate_crop_boxes((90, 140), 1, config.crop_overlap_ratio)
    assert len(crops) == len(boxes) == 5
    for crop, (x0, y0, x1, y1) in zip(crops, boxes, strict=True):
        assert max(crop.shape) == 128
        np.testing.assert_array_equal(crop, resize_image(image[y0:y1, x0:x1], 128))


def test_prepare_crops_refuses_an_empty_image():
    with pytest.raises(ValueError, match="non-empty"):
        prepare_crops(np.zeros((0, 0, 3), np.uint8), MaskConfig())
