"""What the predictor refuses, where torch would compute something else without a word; and copies of it."""

import copy
import pickle
import re

import numpy as np
import pytest
import torch

from sam_pipeline.masks.predictor import SamPredictor

POINTS = {"point_coords": np.array([[30, 40]]), "point_labels": np.array([1])}


@pytest.fixture
def predictor(tiny_sam, picture):
    predictor = SamPredictor(tiny_sam)
    predictor.set_image(picture(90, 140))
    return predictor


def test_a_mask_without_its_first_axis_is_refused(predictor):
    _, _, logits = predictor.predict(**POINTS)
    with pytest.raises(ValueError, match=re.escape("must be (1, 256, 256), got (32, 32); of the logits of predict")):
        predictor.predict(**POINTS, mask_input=logits[0])
    with pytest.raises(ValueError, match=re.escape("got (3, 32, 32)")):
        predictor.predict(**POINTS, mask_input=logits)
    masks, _, _ = predictor.predict(**POINTS, mask_input=logits[0][None])
    assert masks.shape == (3, 90, 140)


@pytest.mark.parametrize("shape", [(4,), (4, 5), (4, 6), (2,), (1, 2, 3)])
def test_boxes_of_another_shape_are_refused(predictor, shape):
    with pytest.raises(ValueError, match=re.escape(f"boxes must be (N, 4), got {shape}")):
        predictor.predict_torch(None, None, torch.ones(shape))


@pytest.mark.parametrize("shape", [(2, 4), (2, 1, 4), (2, 2, 2), (0, 4)])
def test_boxes_of_the_official_shapes_are_taken(predictor, shape):
    masks, _, _ = predictor.predict_torch(None, None, torch.ones(shape))
    assert len(masks) == shape[0]


@pytest.mark.parametrize("shape", [(1, 2), (1, 3, 3), (1, 1, 1, 2)])
def test_points_of_another_shape_are_refused(predictor, shape):
    with pytest.raises(ValueError, match="points must be"):
        predictor.predict_torch(torch.ones(shape), torch.ones(shape[:-1], dtype=torch.int))


def test_as_many_boxes_as_prompts_of_points(predictor):
    with pytest.raises(ValueError, match="points and boxes must be of the same prompts, got points of 2 and 3 boxes"):
        predictor.predict_torch(torch.ones(2, 1, 2), torch.ones(2, 1), torch.ones(3, 4))


def test_a_batch_of_masks_needs_four_axes(predictor):
    with pytest.raises(ValueError, match=re.escape("masks must be (N, 1, h, w), got (1, 32, 32)")):
        predictor.predict_torch(None, None, torch.ones(1, 4), torch.ones(1, 32, 32))


def test_prompts_on_a_batch_of_images_are_refused_and_work_one_after_the_other(predictor, tiny_sam):
    size = tiny_sam.image_encoder.img_size
    images = torch.rand(2, 3, size, size) * 255
    box = torch.tensor([[20.0, 10, 100, 80]])
    predictor.set_torch_image(images, (size, size))
    with pytest.raises(ValueError, match="prompts are for one image, and 2 were set at once"):
        predictor.predict_torch(None, None, box)
    features = predictor.get_image_embedding()
    for i in range(2):
        predictor.features = features[i : i + 1]
        _, _, of_features = predictor.predict_torch(None, None, box)
        predictor.set_torch_image(images[i : i + 1], (size, size))
        _, _, alone = predictor.predict_torch(None, None, box)
        torch.testing.assert_close(of_features, alone, rtol=1e-4, atol=1e-4)


def test_half_weights_are_refused(predictor):
    predictor.model = copy.deepcopy(predictor.model).to(torch.bfloat16)
    with pytest.raises(ValueError, match=r"computes in float32, got weights of torch\.bfloat16"):
        predictor.predict(**POINTS)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda predictor: pickle.loads(pickle.dumps(predictor))])
def test_a_predictor_that_was_used_can_be_copied(predictor, copied, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)  # so that its decoder has threads
    _, _, before = predictor.predict(**POINTS)
    other = copied(predictor)
    _, _, after = other.predict(**POINTS)
    np.testing.assert_allclose(before, after, rtol=1e-5, atol=1e-5)
    assert other.decoder is not predictor.decoder
