"""Candidates in bounded memory: the same masks whatever may be held."""

import weakref

import numpy as np
import pytest
import torch

from sam_pipeline.config import MaskConfig
from sam_pipeline.masks import generator as generator_module
from sam_pipeline.masks.candidates import Candidates
from sam_pipeline.masks.collecting import collect
from sam_pipeline.masks.decoder.plain_decoder import PlainDecoder
from sam_pipeline.masks.generator import MaskGenerator
from sam_pipeline.masks.nms import nms
from sam_pipeline.masks.runs.runs import Runs

MASK_BYTES = 4


def to_runs(logits):
    """One run that says which mask it is of."""
    for mask in logits:
        yield Runs((1, 10**6), np.array([int(mask), int(mask) + 1]))


class Batches:
    """Batches of random boxes; a mask is the number of its candidate. Counts what is decoded."""

    def __init__(self, seed, num_batches, per_batch, *, ascending=False):
        random = np.random.default_rng(seed)
        corners = random.integers(0, 60, (num_batches * per_batch, 2))
        self.boxes = np.concatenate([corners, corners + random.integers(20, 50, corners.shape)], axis=1)
        scores = random.random(len(corners)).astype(np.float32)
        self.scores = np.sort(scores) if ascending else scores
        self.per_batch, self.num_batches, self.decoded = per_batch, num_batches, []
        self.made, self.most_held = [], 0

    def decode(self, number):
        self.decoded.append(number)
        self.most_held = max(self.most_held, sum(mask() is not None for mask in self.made))
        where = slice(number * self.per_batch, (number + 1) * self.per_batch)
        masks = list(torch.arange(where.start, where.stop, dtype=torch.float32))
        self.made += map(weakref.ref, masks)
        return Candidates(
            masks=masks,
            boxes_xyxy=self.boxes[where],
            iou_predictions=self.scores[where],
            stability_scores=self.scores[where],
            point_coords=np.zeros((self.per_batch, 2)),
            crop_boxes_xyxy=np.zeros((self.per_batch, 4), np.int64),
        )

    def collect(self, thresh, num_held):
        return collect(self.decode, self.num_batches, to_runs, thresh, num_held * MASK_BYTES)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("thresh", [0.2, 0.5, 1.0])
@pytest.mark.parametrize("num_held", [0, 3, 9, 40])
def test_what_survives_does_not_depend_on_what_may_be_held(seed, thresh, num_held):
    batches = Batches(seed, num_batches=11, per_batch=7)
    found = batches.collect(thresh, num_held)
    expected = nms(batches.boxes, batches.scores, thresh)
    assert [runs.edges[0] for runs in found.masks] == expected.tolist()
    assert found.boxes_xyxy.tolist() == batches.boxes[expected].tolist()
    assert found.iou_predictions.tolist() == batches.scores[expected].tolist()


@pytest.mark.parametrize("ascending", [False, True])
def test_no_more_logits_are_held_than_may_be_and_those_of_a_batch(ascending):
    batches = Batches(1, num_batches=60, per_batch=7, ascending=ascending)
    batches.collect(0.5, num_held=20)
    assert 0 < batches.most_held <= 20 + 7


def test_what_fits_keeps_its_logits_and_is_decoded_once():
    batches = Batches(0, num_batches=11, per_batch=7)
    found = batches.collect(0.5, num_held=77)
    assert torch.stack(found.masks).tolist() == list(range(77))
    assert batches.decoded == list(range(11))


def test_a_batch_is_decoded_again_when_a_mask_that_was_given_up_survives():
    """Each score is higher than all before it, so that whoever suppressed a mask is most often suppressed later."""
    batches = Batches(3, num_batches=11, per_batch=7, ascending=True)
    found = batches.collect(0.2, num_held=3)
    assert [runs.edges[0] for runs in found.masks] == nms(batches.boxes, batches.scores, 0.2).tolist()
    assert len(batches.decoded) > 11


@pytest.mark.parametrize("layers", [0, 1])
def test_images_have_the_same_masks_when_little_may_be_held(blob_sam, picture, monkeypatch, layers):
    settings = MaskConfig(points_per_side=9, points_per_batch=10, crop_n_layers=layers, pred_iou_thresh=0.3)
    masks = MaskGenerator(blob_sam, settings, decoder=PlainDecoder(blob_sam))
    expected = masks.generate(picture(150, 230))
    for num_held in (0, 5, 30):
        monkeypatch.setattr(generator_module, "MAX_HELD_BYTES", num_held * 4 * 32 * 32)
        assert masks.generate(picture(150, 230)) == expected != []


def test_the_fast_decoder_gives_a_batch_the_same_masks_again(tiny_sam, monkeypatch):
    """To the last bit, or a mask would not fit the box and the area that were computed before."""
    config = MaskConfig(points_per_side=9, pred_iou_thresh=0.0, stability_score_thresh=0.0, box_nms_thresh=0.3)
    masks = MaskGenerator(tiny_sam, config)
    embedding = torch.randn(1, 256, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = masks.decode(embedding, (90, 140))
    monkeypatch.setattr(generator_module, "MAX_HELD_BYTES", 0)
    assert masks.decode(embedding, (90, 140)) == expected != []
