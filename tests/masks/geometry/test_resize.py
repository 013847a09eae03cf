import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sam_pipeline.masks.geometry.resize import preprocess_shape, resize_image
from tests.parity.oracle import official_module

sides = st.integers(1, 20_000)


@given(height=sides, width=sides, long_side=st.sampled_from([64, 1024]))
def test_preprocess_shape_is_the_official_one_but_never_zero(height, width, long_side):
    official = official_module("utils.transforms").ResizeLongestSide.get_preprocess_shape(height, width, long_side)
    assert preprocess_shape(height, width, long_side) == (max(official[0], 1), max(official[1], 1))


@pytest.mark.parametrize("size", [(40, 60), (61, 37), (64, 64), (1, 1), (1, 50), (150, 3)])
def test_resize_image_gives_the_official_bytes(size):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    official = official_module("utils.transforms").ResizeLongestSide(64).apply_image(image)
    np.testing.assert_array_equal(resize_image(image, 64), official)


def test_resize_image_takes_views_and_thin_images():
    image = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    reversed_view = image[:, ::-1, ::-1]
    np.testing.assert_array_equal(resize_image(reversed_view, 64), resize_image(reversed_view.copy(), 64))
    assert resize_image(np.zeros((1, 3000, 3), np.uint8), 1024).shape == (1, 1024, 3)


@pytest.mark.parametrize(
    "image",
    [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)],
)
def test_resize_image_refuses_what_is_not_rgb_bytes(image):
    with pytest.raises(ValueError, match=r"non-empty \(H, W, 3\) uint8"):
        resize_image(image, 64)


def test_reading_tasks_can_prepare_crops_without_torch():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import numpy as np\n"
        "from sam_pipeline.config import MaskConfig\n"
        "from sam_pipeline.masks.geometry.crops import prepare_crops\n"
        "from sam_pipeline.masks.records import MaskRecord\n"
        "crops = prepare_crops(np.zeros((50, 80, 3), np.uint8), MaskConfig(crop_n_layers=1))\n"
        "assert [max(crop.shape) for crop in crops] == [1024] * 5\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
