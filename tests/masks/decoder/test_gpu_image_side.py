"""The kernels by Triton's interpreter, which takes seconds for what a GPU does in microseconds: few and small cases."""

from dataclasses import replace

import pytest
import torch

pytest.importorskip("triton", reason="Triton is for Linux on x86-64")

from sam_pipeline.masks.decoder.batched_image_side import BatchedImageSide
from sam_pipeline.masks.decoder.gpu import attention, folding, upscaling
from sam_pipeline.masks.decoder.gpu.image_side import Launch, Launches, TritonImageSide
from sam_pipeline.masks.decoder.image_side import ImageSideWeights, SharedTokens
from sam_pipeline.masks.decoder.plain_decoder import PlainDecoder
from sam_pipeline.masks.decoder.shared_decoder import SharedDecoder
from tests.launches import watch_launches

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU tests/gpu runs the kernels, compiled")

SIZE = (5, 8)
NUM_ROWS = 3


@pytest.fixture
def weights(tiny_sam):
    """Of 40 image tokens, which no tile divides."""
    return replace(ImageSideWeights.of(tiny_sam), key_pe=normal(40, 256))


def normal(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def both_layers(side, kept, num_tokens=7, num_queries=4, size=SIZE, num_rows=NUM_ROWS):
    """What the image side computes for as many prompts as there are rows of `kept`."""
    N = len(kept)
    keys, values, queries = normal(N, num_tokens, 128 * 3).chunk(3, dim=2)
    K = size[0] * size[1]
    shared = side.share(SharedTokens(normal(K, 256), size, normal(1), normal(1), normal(8, K, 16)))
    state, first = side.update_first(shared, keys, values, queries)
    keys, values, queries = normal(N + 1, num_tokens, 128 * 3)[1:].chunk(3, dim=2)
    state, second = side.update_second(state, keys, values, queries[:, :num_queries])
    return first, second, side.upscale(state, normal(N, kept.shape[1], 32), kept, size, num_rows)


def image_side(weights, tile, dtype=torch.float32):
    launch = Launch(tile, num_warps=4)
    return TritonImageSide(weights, dtype, Launches(launch, launch, launch))


@torch.inference_mode()
@pytest.mark.parametrize(
    ("tile", "processors", "num_tokens", "num_queries", "kept"),
    [
        (16, 1, 7, 4, [[True, False, True], [False, False, False], [False, True, False]]),  # prompts cut in two parts
        (64, 1, 8, 2, [[True], [False]]),  # everything in one tile
        (32, 9, 6, 4, [[True, True, True]]),  # one part a tile
    ],
)
def test_passes_are_those_of_batched_products(weights, tile, processors, num_tokens, num_queries, kept):
    side = image_side(weights, tile)
    side._processors = processors
    kept = torch.tensor(kept)
    passes = both_layers(side, kept, num_tokens, num_queries)
    expected = both_layers(BatchedImageSide(weights), kept, num_tokens, num_queries)
    for ours, theirs in zip(passes, expected, strict=True):
        assert theirs.std() > 0.05, "degenerate numbers compare nothing"
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize(
    ("num_prompts", "size", "share"),
    [
        (3, (3, 7), 0),
        (6, (7, 3), 0.1),
        (5, (2, 5), 0.5),
        (2, (5, 2), 0.9),
        (1, (4, 4), 1),
        # Twenty minutes.
        pytest.param(4096, (2, 3), 0.5, marks=[pytest.mark.soak, pytest.mark.timeout(7200)]),
    ],
)
def test_any_number_of_prompts_and_any_share_of_their_masks_may_be_upscaled(weights, num_prompts, size, share):
    weights = replace(weights, key_pe=normal(size[0] * size[1], 256))
    kept = torch.rand(num_prompts, 3, generator=torch.Generator().manual_seed(num_prompts)) < share
    passes = both_layers(image_side(weights, 16), kept, size=size, num_rows=size[0])
    expected = both_layers(BatchedImageSide(weights), kept, size=size, num_rows=size[0])
    assert passes[2].shape == (int(kept.sum()), 4 * size[0], 4 * size[1])
    for ours, theirs in zip(passes, expected, strict=True):
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
    _, _, masks = both_layers(image_side(weights, 64), kept)
    assert masks.shape == (0, 12, 32)


def test_more_tokens_than_shared_memory_holds_are_refused(weights):
    with pytest.raises(AssertionError, match="tokens a prompt"):
        both_layers(TritonImageSide(weights, torch.float32), torch.ones(1, 3, dtype=torch.bool), num_tokens=9)


@torch.inference_mode()
def test_kernels_are_launched_on_the_device_of_the_tokens(weights, monkeypatch):
    kernels = {folding: ("fold_first", "fold_second"), attention: ("weigh_first", "weigh_second", "attend")}
    launched = [watch_launches(monkeypatch, module, *names) for module, names in kernels.items()]
    launched.append(watch_launches(monkeypatch, upscaling, "upscale"))
    both_layers(image_side(weights, 64), torch.tensor([[False, False, True]]))
    assert launched == [[torch.device("cpu")] * number for number in (2, 4, 1)]
