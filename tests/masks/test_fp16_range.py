"""Prompts whose image tokens exceed the range of fp16, which ends at 65,504: right masks, in float32."""

import copy

import numpy as np
import pytest
import torch

from sam_pipeline.config import MaskConfig
from sam_pipeline.masks.decoder.batched_image_side import BatchedImageSide
from sam_pipeline.masks.decoder.image_side import ImageSideWeights, decoder_layers
from sam_pipeline.masks.decoder.shared_decoder import SharedDecoder
from sam_pipeline.masks.decoder.token_side import TokenSide
from sam_pipeline.masks.generator import MaskGenerator
from sam_pipeline.masks.prompted import PromptedMaskGenerator
from sam_pipeline.masks.prompts import Prompt

SIZE = (90, 140)
CONFIG = MaskConfig(points_per_side=4, pred_iou_thresh=0.0, stability_score_thresh=0.0, points_per_batch=5)
EMBEDDING = torch.randn(1, 256, 8, 8, generator=torch.Generator().manual_seed(0))
PROMPTS = [Prompt((5.0, 5.0, 60.0, 80.0)), Prompt(None, ((20.0, 30.0),), (1,)), Prompt((40.0, 2.0, 90.0, 70.0))]


@pytest.fixture(params=[1, 3e6], ids=["within", "beyond"])
def sam(request, tiny_sam):
    """Keys of the image tokens, times the parameter."""
    scaled = copy.deepcopy(tiny_sam)
    first, _ = decoder_layers(scaled)
    with torch.no_grad():
        first.cross_attn_token_to_image.k_proj.weight *= request.param
    return scaled


@pytest.fixture
def decoder(sam):
    """In fp16, as on a GPU that has no kernels of ours."""
    made = SharedDecoder(sam)
    made._dtype = torch.float16
    made._image_sides = [BatchedImageSide(ImageSideWeights.of(sam), torch.float16)]
    made._token_side = TokenSide(sam, torch.float16)
    return made


def is_beyond(request):
    return "beyond" in request.node.callspec.id


def test_the_generator_finds_the_masks_of_float32(sam, decoder, caplog, request):
    ours = MaskGenerator(sam, CONFIG, decoder=decoder).decode(EMBEDDING, SIZE)
    exact = MaskGenerator(sam, CONFIG).decode(EMBEDDING, SIZE)
    assert len(caplog.messages) == is_beyond(request)
    assert exact
    if is_beyond(request):
        assert "prompts exceed the range of fp16 in the mask decoder" in caplog.text
        assert ours == exact
    else:
        assert [record.predicted_iou for record in ours] != [record.predicted_iou for record in exact]


def test_so_do_prompts(sam, decoder, caplog, request):
    ours = PromptedMaskGenerator(sam, decoder).decode(EMBEDDING, SIZE, PROMPTS)
    exact = PromptedMaskGenerator(sam, SharedDecoder(sam)).decode(EMBEDDING, SIZE, PROMPTS)
    assert len(caplog.messages) == is_beyond(request)
    assert (ours == exact) == is_beyond(request)
    assert [record.predicted_iou for record in exact] == pytest.approx(
        [record.predicted_iou for record in ours], abs=0.02
    )


def test_what_is_no_number_in_float32_either_holds_no_masks(sam, decoder):
    assert MaskGenerator(sam, CONFIG, decoder=decoder).decode(torch.full((1, 256, 8, 8), np.nan), SIZE) == []
