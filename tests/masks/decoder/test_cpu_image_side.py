import copy

import numpy as np
import pytest
import torch

from sam_pipeline.masks.decoder.cpu.attention import STRIP, Attended, _online_softmax, rstd
from sam_pipeline.masks.decoder.cpu.image_side import LowRankImageSide
from sam_pipeline.masks.decoder.cpu.products import LANES
from sam_pipeline.masks.decoder.image_side import ImageSideWeights
from sam_pipeline.masks.decoder.plain_decoder import PlainDecoder
from sam_pipeline.masks.decoder.shared_decoder import SharedDecoder
from sam_pipeline.model.networks.image_encoder import ImageEncoderViT
from sam_pipeline.model.networks.two_way_transformer import TwoWayTransformer
from sam_pipeline.model.sam import assemble_sam
from tests.small_sams import randomise

SIDE = 13
"""Rows and columns of the embedding: 169 image tokens are a strip and a part of one."""


def sam_of(side):
    """A SAM of random weights whose embedding has so many rows."""
    encoder = ImageEncoderViT(16 * side, embed_dim=32, depth=1, num_heads=2, window_size=4, global_attn_indexes=(0,))
    sam = assemble_sam(encoder).eval()
    randomise(sam, seed=3)
    return sam


@pytest.fixture(scope="module")
def sam():
    return sam_of(SIDE)


def embedding(side=SIDE):
    return torch.randn(1, 256, side, side, generator=torch.Generator().manual_seed(1))


def points(num_prompts, points_a_prompt=1, side=SIDE):
    generator = torch.Generator().manual_seed(num_prompts)
    coords = torch.rand(num_prompts, points_a_prompt, 2, generator=generator, dtype=torch.float64) * 16 * side
    return coords, torch.randint(0, 2, (num_prompts, points_a_prompt), generator=generator)


def decode(decoder, image_embedding, prompts, num_rows=None, multimask_output=True):
    num_rows = num_rows or image_embedding.shape[2]
    with torch.inference_mode():
        shared = decoder.share(image_embedding)
        return decoder.decode(shared, prompts, torch.isfinite, num_rows, multimask_output=multimask_output)


def assert_like_plain(sam, *arguments):
    expected, decoded = decode(PlainDecoder(sam), *arguments), decode(SharedDecoder(sam), *arguments)
    torch.testing.assert_close(decoded.iou_predictions, expected.iou_predictions, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(decoded.low_res_masks, expected.low_res_masks, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("multimask_output", [True, False])
@pytest.mark.parametrize("points_a_prompt", [1, 2, 3, 4, 17, 18])
@pytest.mark.parametrize("num_rows", [SIDE, 10])  # 10 rows end in the second strip
def test_strips_do_not_show(sam, points_a_prompt, num_rows, multimask_output, monkeypatch):
    assert STRIP < 10 * SIDE < SIDE * SIDE < 2 * STRIP
    monkeypatch.setattr(LowRankImageSide, "prompts_at_once", 2)
    assert_like_plain(sam, embedding(), points(5, points_a_prompt), num_rows, multimask_output)


@pytest.mark.parametrize("side", [16, 24])
def test_whole_strips_and_many(side):
    assert (side * side) % STRIP in (0, STRIP // 2)
    assert_like_plain(sam_of(side), embedding(side), points(5, side=side))


def test_a_prompt_that_is_no_number_spoils_no_other(sam):
    """Prompts are decoded one after another in the same room."""
    coords, labels = points(5)
    expected = decode(SharedDecoder(sam), embedding(), (coords, labels))
    coords[1] = torch.nan
    decoded = decode(SharedDecoder(sam), embedding(), (coords, labels))
    others = torch.arange(5) != 1
    assert decoded.iou_predictions[1].isnan().all()
    assert torch.equal(decoded.iou_predictions[others], expected.iou_predictions[others])
    assert torch.equal(decoded.low_res_masks, expected.low_res_masks[others.repeat_interleave(3)])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, SIDE * SIDE - 1])
def test_an_image_token_that_is_no_number_leaves_no_attended_value(sam, value, place):
    image_side, decoder = LowRankImageSide(ImageSideWeights.of(sam)), SharedDecoder(sam)
    image_embedding = embedding()
    image_embedding.flatten(2)[0, 7, place] = value
    with torch.inference_mode():
        shared = image_side.share(decoder.share(image_embedding).tokens)
        keys, values, queries = torch.randn(3, 2, 7, 128, generator=torch.Generator().manual_seed(0))
        state, attended = image_side.update_first(shared, keys, values, queries)
        assert attended.isnan().all()
        _, attended = image_side.update_second(state, keys, values, queries[:, :4])
        assert attended.isnan().all()


def test_attention_goes_on_whatever_the_order_of_scores():
    """An online softmax: sums are scaled where a later score is larger, beyond the range of float32 as well."""
    random = np.random.default_rng(0)
    H, Q, D, rows, strips, width = 2, 3, LANES, 5, 4, STRIP - 37
    scores = random.standard_normal((H * Q, strips, STRIP))
    scores[0] += np.array([[0], [200], [400], [600]])
    scores[1] += np.array([[600], [400], [200], [0]])
    scores[3] += np.array([[-900], [5], [-3], [8]])
    scores[2] = 3
    scores[4, 0, :50] = -np.inf
    scores[:, -1, width:] = np.nan  # behind the last image token
    coefficients = random.standard_normal((rows, strips, STRIP)).astype(np.float32)
    values = random.standard_normal((H, strips, STRIP, D)).astype(np.float32)
    attended = Attended(
        maxima=np.full((1, H * Q), -np.inf, np.float32),
        sums=np.zeros((1, H * Q), np.float32),
        own=np.zeros((1, rows, H * Q), np.float32),
        common=np.zeros((1, H, Q, D), np.float32),
    )
    for strip in range(strips):
        weights = scores[:, strip].astype(np.float32)
        _online_softmax(weights, width if strip == strips - 1 else STRIP, 0, attended)
        attended.own[0] += coefficients[:, strip] @ weights.T
        attended.common[0] += np.einsum("hqs,hsd->hqd", weights.reshape(H, Q, STRIP), values[:, strip])
    scores[:, -1, width:] = -np.inf
    exact = scores.astype(np.float32).astype(np.float64).reshape(H * Q, -1)
    exact = np.exp2(exact - exact.max(axis=1, keepdims=True))
    exact /= exact.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(
        attended.own[0] / attended.sums[0], np.einsum("rs,qs->rq", coefficients.reshape(rows, -1), exact), atol=2e-6
    )
    np.testing.assert_allclose(
        attended.common[0] / attended.sums[0].reshape(H, Q, 1),
        np.einsum("hqs,hsd->hqd", exact.reshape(H, Q, -1), values.reshape(H, -1, D)),
        atol=2e-6,
    )


def test_heads_that_fill_no_blocks_are_left_to_batched_products(sam):
    """Nobody has published such a model, but the predictor takes the user's own transformer."""
    other = copy.deepcopy(sam)
    other.mask_decoder.transformer = TwoWayTransformer(depth=2, embedding_dim=256, num_heads=2, mlp_dim=64)
    randomise(other, seed=4)
    assert not LowRankImageSide.takes(ImageSideWeights.of(other))
    assert_like_plain(other.eval(), embedding(), points(5))


def test_a_variance_that_rounding_made_negative_gives_a_number():
    eps = np.float32(1e-5)
    assert [rstd(np.float32(x), eps) for x in (-1e-3, 0)] == pytest.approx([1e-5**-0.5] * 2)
    assert np.isnan(rstd(np.float32(np.nan), eps))
