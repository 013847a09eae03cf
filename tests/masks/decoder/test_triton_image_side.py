"""The kernels by Triton's interpreter, which takes seconds for what a GPU does in microseconds: few and small cases."""

from dataclasses import replace

import pytest
import torch

pytest.importorskip("triton", reason="Triton is for Linux on x86-64")

from sam_pipeline.masks.decoder import triton_kernels
from sam_pipeline.masks.decoder.batched_image_side import BatchedImageSide
from sam_pipeline.masks.decoder.image_side import ImageSideWeights, SharedTokens
from sam_pipeline.masks.decoder.plain_decoder import PlainDecoder
from sam_pipeline.masks.decoder.shared_decoder import SharedDecoder
from sam_pipeline.masks.decoder.triton_image_side import Launch, TritonImageSide
from tests.launches import watch_launches

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU tests/gpu runs the kernels, compiled")

SIZE = (5, 8)
ROWS = 7 * 8  # tokens and heads


@pytest.fixture
def weights(tiny_sam):
    """Of 40 image tokens, which no tile divides."""
    return replace(ImageSideWeights.of(tiny_sam), key_pe=normal(40, 256))


def normal(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def both_layers(side, num_prompts, kept, num_rows):
    shared = SharedTokens(normal(40, 256), SIZE, normal(1), normal(1), normal(40, 128))
    state, first = side.first_layer(
        shared, normal(num_prompts, ROWS, 128) / 8, normal(num_prompts, ROWS, 256), normal(num_prompts, ROWS, 256) / 8
    )
    state, second = side.second_layer(
        state,
        normal(num_prompts + 1, ROWS, 256)[1:] / 8,
        normal(num_prompts, ROWS),
        normal(num_prompts + 2, ROWS, 256)[2:] / 4,
        normal(num_prompts + 3, ROWS, 256)[3:] / 8,
    )
    return first, second, side.upscale(state, normal(num_prompts, 3, 32), kept, SIZE, num_rows)


@torch.inference_mode()
@pytest.mark.parametrize(
    ("tile", "processors", "kept"),
    [
        (16, 1, [[True, False, True], [False, False, False], [False, True, False]]),  # prompts cut in three parts
        (64, 1, [[False, False, True]]),  # everything in one tile
    ],
)
def test_passes_are_those_of_batched_products(weights, tile, processors, kept):
    side = TritonImageSide(weights, torch.float32)
    side.averaging = side.rebuilding = side.upscaling = Launch(tile, num_warps=8, num_stages=1)
    side._processors = processors
    kept = torch.tensor(kept)
    passes = both_layers(side, len(kept), kept, num_rows=3)
    expected = both_layers(BatchedImageSide(weights), len(kept), kept, num_rows=3)
    for ours, theirs in zip(passes, expected, strict=True):
        assert theirs.std() > 0.05, "degenerate numbers compare nothing"
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)


@torch.inference_mode()
def test_masks_are_those_of_the_plain_networks_up_to_the_rounding_of_operands(tiny_sam):
    decoder = SharedDecoder(tiny_sam)
    # For bfloat16, which the interpreter cannot multiply: also a type that all operands must be rounded to.
    decoder._image_sides = [TritonImageSide(ImageSideWeights.of(tiny_sam), torch.float16)]
    image_embedding, points = normal(1, 256, 8, 8), (torch.tensor([[[40.0, 90.0]]]), torch.ones(1, 1))
    decoded, expected = (
        each.decode(each.share(image_embedding), points, torch.isfinite, 8)
        for each in (decoder, PlainDecoder(tiny_sam))
    )
    torch.testing.assert_close(decoded.iou_predictions, expected.iou_predictions, atol=1e-3, rtol=0)
    error = (decoded.low_res_masks - expected.low_res_masks).pow(2).mean().sqrt()
    assert 1e-5 < error < 2e-3 * expected.low_res_masks.std()


@torch.inference_mode()
def test_nothing_kept_gives_no_masks(weights):
    kept = torch.zeros(1, 3, dtype=torch.bool)
    _, _, masks = both_layers(TritonImageSide(weights, torch.float32), 1, kept, num_rows=5)
    assert masks.shape == (0, 20, 32)


def test_more_tokens_than_shared_memory_holds_are_refused(weights):
    shared = SharedTokens(normal(40, 256), SIZE, normal(1), normal(1), normal(40, 128))
    rows = 9 * 8
    with pytest.raises(AssertionError, match="tokens a prompt"):
        TritonImageSide(weights, torch.float32).first_layer(
            shared, normal(1, rows, 128), normal(1, rows, 256), normal(1, rows, 256)
        )


@torch.inference_mode()
def test_kernels_are_launched_on_the_device_of_the_tokens(weights, monkeypatch):
    launched = watch_launches(monkeypatch, triton_kernels, "average", "rebuild", "upscale")
    side = TritonImageSide(weights, torch.float32)
    side.averaging = side.rebuilding = side.upscaling = Launch(64, num_warps=8, num_stages=1)
    both_layers(side, 1, torch.tensor([[False, False, True]]), num_rows=3)
    assert launched == [torch.device("cpu")] * 4
