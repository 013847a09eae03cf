"""MobileSAM's real weights: masks of many prompts at once against the official predictor, prompt by prompt."""

from __future__ import annotations

import numpy as np
import pytest
import skimage.data
import torch

from sam_pipeline.masks import prediction
from sam_pipeline.masks.decoder.shared_decoder import SharedDecoder
from sam_pipeline.masks.geometry.transforms import ResizeLongestSide
from sam_pipeline.masks.prompted import PromptedMaskGenerator
from sam_pipeline.masks.prompts import Prompt, UnusablePrompt
from sam_pipeline.masks.runs import rle
from sam_pipeline.model.registry import build_sam
from tests.parity.oracle import official_mobile_sam, official_predictor

pytestmark = pytest.mark.weights

IMAGE = skimage.data.astronaut()[:400]
"""Not square, so that rows of the embedding hold padding."""
SIZE = IMAGE.shape[:2]


def random_prompts(num_prompts, seed):
    """Boxes alone, boxes with points, points in ones, twos and threes: in any order."""
    generator = np.random.default_rng(seed)
    prompts = []
    for _ in range(num_prompts):
        corners = np.sort(generator.uniform((0, 0), (SIZE[1], SIZE[0]), (2, 2)), axis=0)
        box = (*corners[0], *(corners[0] + np.maximum(corners[1] - corners[0], 20)))
        points = generator.uniform((0, 0), (SIZE[1], SIZE[0]), (generator.integers(1, 4), 2))
        labels = (1, *generator.integers(0, 2, len(points) - 1).tolist())
        with_box, with_points = [(True, False), (True, True), (False, True)][generator.integers(3)]
        prompts.append(
            Prompt(
                tuple(map(float, box)) if with_box else None,
                tuple(map(tuple, points.tolist())) if with_points else (),
                labels if with_points else (),
            )
        )
    return prompts


@pytest.fixture(scope="module")
def networks(vit_t_checkpoint):
    """Our networks and embedding of the image; the official predictor, set to it."""
    sam = build_sam("vit_t", vit_t_checkpoint)
    embedding = prediction.encode(sam, [ResizeLongestSide(1024).apply_image(IMAGE)])
    theirs = official_predictor(official_mobile_sam(torch.load(vit_t_checkpoint, weights_only=True)))
    theirs.set_image(IMAGE)
    return sam, embedding, theirs


def official(predictor, prompt, multimask_output):
    masks, iou_predictions, low_res_masks = predictor.predict(
        point_coords=np.array(prompt.point_coords) if prompt.point_coords else None,
        point_labels=np.array(prompt.point_labels) if prompt.point_coords else None,
        box=None if prompt.box_xyxy is None else np.array(prompt.box_xyxy),
        mask_input=None if prompt.mask_input is None else prompt.mask_input[None],
        multimask_output=multimask_output,
    )
    best = iou_predictions.argmax()
    return masks[best], iou_predictions[best], low_res_masks[best]


@pytest.mark.parametrize("multimask_output", [True, False])
def test_each_prompt_gets_the_official_mask(networks, multimask_output):
    sam, embedding, theirs = networks
    prompts = random_prompts(24, seed=0)
    _, _, low_res = official(theirs, prompts[0], multimask_output)
    prompts += [Prompt(mask_input=low_res), Prompt(prompts[1].box_xyxy, ((200.0, 90.0),), (1,), low_res)]
    records = PromptedMaskGenerator(sam, SharedDecoder(sam), multimask_output).decode(embedding, SIZE, prompts)
    assert len(records) == len(prompts)
    for prompt, record in zip(prompts, records, strict=True):
        mask, predicted_iou, _ = official(theirs, prompt, multimask_output)
        ours = rle.decode(record.segmentation)
        assert ours.shape == mask.shape
        assert np.mean(ours == mask) >= 0.9999
        assert record.predicted_iou == pytest.approx(predicted_iou, abs=1e-4)
        assert record.area == ours.sum()
        assert record.point_coords == prompt.point_coords
        rows, columns = (np.flatnonzero(ours.any(axis)) for axis in (1, 0))
        x, y, w, h = record.bbox
        assert [x, y, x + w, y + h] == [columns[0], rows[0], columns[-1], rows[-1]]


def test_a_prompt_whose_official_mask_is_empty_is_an_error_and_the_others_have_masks(networks):
    sam, embedding, theirs = networks
    dot = Prompt((324.85, 107.375, 324.86, 107.385), prompt_id=7)
    others = random_prompts(3, seed=2)
    assert not official(theirs, dot, multimask_output=False)[0].any(), "choose another box: this one has a mask"
    before, error, *after = PromptedMaskGenerator(sam, SharedDecoder(sam)).decode(
        embedding, SIZE, [others[0], dot, *others[1:]]
    )
    assert error == UnusablePrompt("prompt", 7, "its mask is empty: SAM finds no object there")
    assert all(record.area > 0 for record in (before, *after))


def test_no_prompts_are_no_masks(networks):
    sam, embedding, _ = networks
    assert PromptedMaskGenerator(sam, SharedDecoder(sam)).decode(embedding, SIZE, []) == []


def test_a_prompt_gets_the_same_mask_alone_and_among_many(networks):
    sam, embedding, _ = networks
    prompts = random_prompts(300, seed=1)
    generator = PromptedMaskGenerator(sam, SharedDecoder(sam))
    together = generator.decode(embedding, SIZE, prompts)
    for i in (0, 150, 299):
        (alone,) = generator.decode(embedding, SIZE, [prompts[i]])
        assert np.mean(rle.decode(alone.segmentation) == rle.decode(together[i].segmentation)) >= 0.9999
