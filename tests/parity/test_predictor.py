"""MobileSAM's real weights: our predictor against the official one, prompt by prompt."""

from __future__ import annotations

import numpy as np
import pytest
import skimage.data
import torch

from sam_pipeline.masks.predictor import SamPredictor
from sam_pipeline.model.registry import build_sam
from tests.parity.oracle import official_mobile_sam, official_predictor

pytestmark = pytest.mark.weights

POINTS = {"point_coords": np.array([[250, 100], [60.5, 400]]), "point_labels": np.array([1, 0])}
BOX = {"box": np.array([150, 20, 320, 300])}
PROMPTS = {
    "points of both labels": POINTS,
    "one mask": {**POINTS, "multimask_output": False},
    "box": BOX,
    "box and points": {**BOX, **POINTS, "multimask_output": False},
}


@pytest.fixture(scope="module")
def networks(vit_t_checkpoint):
    """Ours and the official ones."""
    return build_sam("vit_t", vit_t_checkpoint), official_mobile_sam(torch.load(vit_t_checkpoint, weights_only=True))


@pytest.fixture(scope="module")
def predictors(networks):
    """Ours and the official one, both set to the same photograph."""
    ours, theirs = SamPredictor(networks[0]), official_predictor(networks[1])
    for predictor in (ours, theirs):
        predictor.set_image(skimage.data.astronaut())
    return ours, theirs


def assert_same_prediction(ours, theirs):
    (masks, iou_predictions, low_res_masks), (official_masks, official_iou, official_low_res) = ours, theirs
    assert masks.shape == official_masks.shape
    assert masks.dtype == official_masks.dtype
    assert 0.001 < np.mean(np.asarray(official_masks)) < 0.999, "masks without an edge compare nothing"
    assert np.mean(np.asarray(masks == official_masks)) >= 0.9999
    np.testing.assert_allclose(iou_predictions, official_iou, rtol=0, atol=1e-4)
    # Logits reach about 50; what tells masks apart is their sign.
    np.testing.assert_allclose(low_res_masks, official_low_res, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("prompts", PROMPTS.values(), ids=PROMPTS)
def test_predictions_are_the_official_ones(predictors, prompts):
    ours, theirs = predictors
    assert_same_prediction(ours.predict(**prompts), theirs.predict(**prompts))


def test_a_mask_refines_a_prediction_as_in_the_official_predictor(predictors):
    ours, theirs = predictors
    _, iou_predictions, low_res_masks = theirs.predict(**POINTS)
    best = low_res_masks[iou_predictions.argmax()][None]
    refined = {**POINTS, "mask_input": best, "multimask_output": False}
    assert_same_prediction(ours.predict(**refined), theirs.predict(**refined))
    alone = {"mask_input": best}
    assert_same_prediction(ours.predict(**alone), theirs.predict(**alone))


def test_logits_are_the_official_ones(predictors):
    (logits, *_), (official_logits, *_) = (predictor.predict(**BOX, return_logits=True) for predictor in predictors)
    np.testing.assert_allclose(logits, official_logits, rtol=1e-4, atol=1e-3)


def test_batches_of_prompts_are_the_official_ones(predictors):
    ours, theirs = predictors
    size = skimage.data.astronaut().shape[:2]
    points = torch.tensor([[[250.0, 100.0], [60.0, 400.0]], [[400.0, 60.0], [10.0, 10.0]]])
    labels = torch.tensor([[1, 0], [1, 1]])
    boxes = torch.tensor([[150.0, 20.0, 320.0, 300.0], [300.0, 10.0, 480.0, 200.0]])
    moved = theirs.transform.apply_coords_torch(points, size), theirs.transform.apply_boxes_torch(boxes, size)
    assert torch.equal(ours.transform.apply_coords_torch(points, size), moved[0])
    assert torch.equal(ours.transform.apply_boxes_torch(boxes, size), moved[1])
    for prompts in ((moved[0], labels), (None, None, moved[1]), (moved[0], labels, moved[1])):
        assert_same_prediction(
            ours.predict_torch(*prompts, multimask_output=False), theirs.predict_torch(*prompts, multimask_output=False)
        )


def test_images_in_other_channel_orders_and_as_tensors(networks):
    predictors = ours, theirs = SamPredictor(networks[0]), official_predictor(networks[1])
    image = skimage.data.chelsea()
    for predictor in predictors:
        predictor.set_image(image, "BGR")
    assert_same_prediction(*(predictor.predict(**BOX) for predictor in predictors))
    as_bgr = ours.get_image_embedding()
    transformed = torch.tensor(theirs.transform.apply_image(image[..., ::-1])).permute(2, 0, 1)[None]
    for predictor in predictors:
        predictor.set_torch_image(transformed, image.shape[:2])
    assert torch.equal(ours.get_image_embedding(), as_bgr)
    assert_same_prediction(*(predictor.predict(**BOX) for predictor in predictors))
