import numpy as np
import pytest
import torch

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
