"""The kernels of the mask decoder and of masks, ready to be timed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from sam_pipeline.masks.decoder.image_side import ImageSideWeights, SharedTokens
from sam_pipeline.masks.decoder.triton_image_side import TritonImageSide
from sam_pipeline.masks.full_resolution.upscaling import Upscaling
from tests.gpu.bench import Bench
from tests.gpu.networks import random_sam

SIZE_HW, INPUT_SIZE_HW = (1500, 2250), (683, 1024)
NUM_ROWS = 44
"""Of 64: those of such an image."""


def image_side(bench: Bench) -> TritonImageSide:
    weights = ImageSideWeights.of(random_sam(bench.device))
    num_tokens = math.prod(bench.scale.embedding_hw)
    return TritonImageSide(replace(weights, key_pe=weights.key_pe[:num_tokens]), _dtype(bench))


def calls_of_passes(bench: Bench, side: TritonImageSide) -> dict[str, Callable[[], object]]:
    """Name → call, of an image with random prompts of seven tokens, 40 % of which have a mask worth upscaling."""
    size = bench.scale.embedding_hw
    num_rows = min(NUM_ROWS, size[0])
    keys, image_queries = (
        torch.randn(math.prod(size), channels, device=bench.device).to(_dtype(bench)) for channels in (256, 128)
    )
    unread = keys.new_empty(0)
    shared = SharedTokens(keys, size, unread, unread, image_queries)

    def random(*shape: int) -> Tensor:
        return torch.randn(bench.scale.prompts_of_kernels, *shape, device=bench.device) / 8

    block_keys, bias, hyper_in = random(56, 128), random(56), random(3, 32)
    values, folded_queries, folded_keys = random(56, 256), random(56, 256), random(56, 256)
    read = random(32, 256)  # in the end the tokens of three masks and of the predicted IoU are
    kept = two_in_five(hyper_in[..., 0])
    first, _ = side.first_layer(shared, block_keys, values, folded_queries)
    second, _ = side.second_layer(first, folded_keys, bias, values, read)
    masks = F.interpolate(random(1, 12, 12) * 64, (4 * NUM_ROWS, 256), mode="bicubic")[:, 0].contiguous()
    upscaling = Upscaling(random_sam(bench.device), INPUT_SIZE_HW, SIZE_HW)
    return {
        "first pass": lambda: side.first_layer(shared, block_keys, values, folded_queries),
        "second pass": lambda: side.second_layer(first, folded_keys, bias, values, read),
        "upscaling": lambda: side.upscale(second, hyper_in, kept, size, num_rows),
        "measuring": lambda: upscaling.measure(masks, offset=1.0),
        "edges": lambda: list(upscaling.runs(list(masks))),
    }


def _dtype(bench: Bench) -> torch.dtype:
    return torch.float16 if bench.device == "cuda" else torch.float32


def two_in_five(iou_predictions: Tensor) -> Tensor:
    """Keep two masks of one prompt in five and one of another: (N, M) → (N, M) bool."""
    kept = torch.zeros_like(iou_predictions, dtype=torch.bool)
    kept[::5, :2] = True
    kept[1::5, 0] = True
    return kept
