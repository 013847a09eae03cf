import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sam_pipeline.masks.geometry.transforms import ResizeLongestSide
from tests.parity.oracle import official_module

SIZES = [(480, 640), (1371, 777), (5, 3)]


@pytest.fixture
def official():
    return official_module("utils.transforms").ResizeLongestSide(1024)


@pytest.mark.parametrize("size", SIZES)
def test_coords_and_boxes_move_as_in_the_official_code(official, size):
    ours = ResizeLongestSide(1024)
    points = np.random.default_rng(0).uniform(0, 600, (7, 2))
    boxes = np.random.default_rng(1).integers(0, 600, (5, 4))
    for ours_moved, official_moved in (
        (ours.apply_coords(points, size), official.apply_coords(points, size)),
        (ours.apply_boxes(boxes, size), official.apply_boxes(boxes, size)),
        (ours.apply_boxes(boxes[0], size), official.apply_boxes(boxes[0], size)),
    ):
        assert ours_moved.dtype == official_moved.dtype == np.float64
        np.testing.assert_array_equal(ours_moved, official_moved)


@pytest.mark.parametrize("size", SIZES)
def test_tensors_move_as_in_the_official_code(official, size):
    ours = ResizeLongestSide(1024)
    points = torch.rand(2, 7, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 600
    boxes = torch.tensor([[1, 2, 3, 4], [50, 60, 70, 80]])
    for ours_moved, official_moved in (
        (ours.apply_coords_torch(points, size), official.apply_coords_torch(points, size)),
        (ours.apply_boxes_torch(boxes, size), official.apply_boxes_torch(boxes, size)),
    ):
        assert ours_moved.dtype == official_moved.dtype == torch.float32
        assert torch.equal(ours_moved, official_moved)


IMAGES = {
    "grey": ((30, 40), np.uint8),
    "one channel": ((30, 40, 1), np.uint8),
    "RGBA": ((30, 40, 4), np.uint8),
    "depth": ((30, 40), np.float32),
    "numbers of regions": ((30, 40), np.int32),
}


@pytest.mark.parametrize(("shape", "dtype"), IMAGES.values(), ids=IMAGES)
def test_images_of_other_kinds_are_resized_as_officially(official, shape, dtype):
    image = np.random.default_rng(0).integers(0, 256, shape).astype(dtype)
    # The real torchvision takes one channel for a grey image, its stand-in does not.
    theirs = official.apply_image(image.reshape(30, 40) if shape[2:] == (1,) else image)
    ours = ResizeLongestSide(1024).apply_image(image)
    assert ours.dtype == theirs.dtype
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (Image.new("RGB", (4, 3)), r'got Image; np\.asarray\(image\.convert\("RGB"\)\)'),
        (np.zeros((3, 4), bool), r"astype\(np\.uint8\)"),
        (np.zeros((3, 4, 5), np.uint8), "no mode for shape"),
        (np.zeros((0, 4, 3), np.uint8), "no pixels"),
    ],
)
def test_images_that_pillow_cannot_resize_are_refused(image, message):
    with pytest.raises(ValueError, match=message):
        ResizeLongestSide(1024).apply_image(image)


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 2048))
def test_sizes_are_the_official_ones_but_never_zero(height, width, length):
    theirs = official_module("utils.transforms").ResizeLongestSide.get_preprocess_shape(height, width, length)
    assert ResizeLongestSide.get_preprocess_shape(height, width, length) == tuple(max(1, side) for side in theirs)


@given(st.integers(0, 4), st.tuples(st.integers(1, 999), st.integers(1, 999)), st.integers(0, 2**32 - 1))
def test_any_number_of_points_and_boxes_moves_as_officially(count, size, seed):
    ours, theirs = ResizeLongestSide(1024), official_module("utils.transforms").ResizeLongestSide(1024)
    values = np.random.default_rng(seed).uniform(-50, 2000, (count, 4))
    for one, other in (
        (ours.apply_coords(values[:, :2], size), theirs.apply_coords(values[:, :2], size)),
        (ours.apply_boxes(values, size), theirs.apply_boxes(values, size)),
    ):
        np.testing.assert_array_equal(one, other)
    tensor = torch.from_numpy(values)
    assert torch.equal(ours.apply_boxes_torch(tensor, size), theirs.apply_boxes_torch(tensor, size))
    assert torch.equal(ours.apply_coords_torch(tensor[:, :2], size), theirs.apply_coords_torch(tensor[:, :2], size))


def test_moving_leaves_its_argument_alone():
    points = np.array([[10.0, 20.0]])
    tensor = torch.tensor([[10.0, 20.0]])
    ResizeLongestSide(1024).apply_coords(points, (100, 100))
    ResizeLongestSide(1024).apply_coords_torch(tensor, (100, 100))
    assert points.tolist() == tensor.tolist() == [[10.0, 20.0]]


def test_image_tensors_resize_to_the_shape_of_their_pixels():
    image = np.zeros((60, 90, 3), np.uint8)
    image[:, :, 0] = np.linspace(0, 255, 90)
    transform = ResizeLongestSide(128)
    batch = torch.tensor(image).permute(2, 0, 1)[None].float()
    resized = transform.apply_image_torch(batch)
    assert resized.shape == (1, 3, 85, 128)
    difference = resized[0].permute(1, 2, 0) - torch.tensor(transform.apply_image(image)).float()
    assert difference.abs().max() <= 1  # rounding to bytes, twice
