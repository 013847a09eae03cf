import numpy as np
import pytest
import torch

from sam_pipeline.masks.decoder.cpu.attention import STRIP, rstd
from sam_pipeline.masks.decoder.cpu.image_side import LowRankImageSide
from sam_pipeline.masks.decoder.plain_decoder import PlainDecoder
from sam_pipeline.masks.decoder.shared_decoder import SharedDecoder
from sam_pipeline.model.networks.image_encoder import ImageEncoderViT
from sam_pipeline.model.registry import assemble_sam
from tests.small_sams import randomise

SIDE = 13
"""Rows and columns of the embedding: 169 image tokens are a strip and a part of one."""


@pytest.fixture(scope="module")
def sam():
    encoder = ImageEncoderViT(16 * SIDE, embed_dim=32, depth=1, num_heads=2, window_size=4, global_attn_indexes=(0,))
    sam = assemble_sam(encoder).eval()
    randomise(sam, seed=3)
    return sam


def embedding(scale=1.0):
    return scale * torch.randn(1, 256, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def decode(decoder, image_embedding, num_prompts, points_a_prompt=1, num_rows=SIDE, multimask_output=True):
    generator = torch.Generator().manual_seed(num_prompts)
    coords = torch.rand(num_prompts, points_a_prompt, 2, generator=generator, dtype=torch.float64) * 16 * SIDE
    labels = torch.randint(0, 2, (num_prompts, points_a_prompt), generator=generator)
    with torch.inference_mode():
        return decoder.decode(
            decoder.share(image_embedding), (coords, labels), torch.isfinite, num_rows, None, multimask_output
        )


@pytest.mark.parametrize("multimask_output", [True, False])
@pytest.mark.parametrize("points_a_prompt", [1, 2, 3, 4, 17, 18])
@pytest.mark.parametrize("num_rows", [SIDE, 10])  # 10 rows end in the second strip
def test_strips_do_not_show(sam, points_a_prompt, num_rows, multimask_output, monkeypatch):
    assert STRIP < 10 * SIDE < SIDE * SIDE < 2 * STRIP
    monkeypatch.setattr(LowRankImageSide, "prompts_at_once", 2)
    arguments = embedding(), 5, points_a_prompt, num_rows, multimask_output
    expected, decoded = decode(PlainDecoder(sam), *arguments), decode(SharedDecoder(sam), *arguments)
    torch.testing.assert_close(decoded.iou_predictions, expected.iou_predictions, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(decoded.low_res_masks, expected.low_res_masks, atol=1e-4, rtol=1e-4)


def test_largest_scores_may_come_in_the_last_strip_or_in_the_first(sam):
    """The softmax over image tokens goes strip by strip: what was summed before is scaled where a score is larger."""
    increasing = embedding() * torch.linspace(0.1, 30, SIDE)[:, None]
    for image_embedding in (increasing, increasing.flip(2)):
        expected, decoded = (
            decode(PlainDecoder(sam), image_embedding, 9),
            decode(SharedDecoder(sam), image_embedding, 9),
        )
        torch.testing.assert_close(decoded.iou_predictions, expected.iou_predictions, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(decoded.low_res_masks, expected.low_res_masks, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, SIDE - 1])
def test_one_image_token_that_is_no_number_leaves_no_score(sam, value, place):
    """Every prompt attends to it."""
    image_embedding = embedding()
    image_embedding[0, 7, place, place] = value
    assert decode(PlainDecoder(sam), image_embedding, 9).iou_predictions.isnan().all()
    decoded = decode(SharedDecoder(sam), image_embedding, 9)
    assert decoded.iou_predictions.isnan().all()
    assert len(decoded.low_res_masks) == 0


def test_a_variance_that_rounding_made_negative_gives_a_number():
    eps = np.float32(1e-5)
    assert [rstd(np.float32(x), eps) for x in (-1e-3, 0)] == pytest.approx([1e-5**-0.5] * 2)
    assert np.isnan(rstd(np.float32(np.nan), eps))
