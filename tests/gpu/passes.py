"""The kernels of the mask decoder and of masks, ready to be timed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from sam_pipeline.masks.decoder.gpu.image_side import HOPPER, Launches, TritonImageSide
from sam_pipeline.masks.decoder.image_side import ImageSideWeights, SharedTokens
from sam_pipeline.masks.full_resolution.upscaling import Upscaling
from tests.gpu.bench import Bench
from tests.gpu.networks import random_sam

SIZE_HW, INPUT_SIZE_HW = (1500, 2250), (683, 1024)
NUM_ROWS = 44
"""Of 64: those of such an image."""


def image_side(bench: Bench, launches: Launches = HOPPER) -> TritonImageSide:
    weights = ImageSideWeights.of(random_sam(bench.device))
    num_tokens = math.prod(bench.scale.embedding_hw)
    return TritonImageSide(replace(weights, key_pe=weights.key_pe[:num_tokens]), _dtype(bench), launches)


def calls_of_passes(bench: Bench, side: TritonImageSide) -> dict[str, Callable[[], object]]:
    """Name → call, of an image with random prompts of seven tokens, 40 % of which have a mask worth upscaling."""
    size = bench.scale.embedding_hw
    num_rows = min(NUM_ROWS, size[0])
    image_tokens = torch.randn(math.prod(size), 256, device=bench.device)
    image_queries = torch.randn(8, math.prod(size), 16, device=bench.device)
    unread = image_tokens.new_empty(0)
    shared = side.share(SharedTokens(image_tokens, size, unread, unread, image_queries))

    def random(*shape: int) -> Tensor:
        return torch.randn(bench.scale.prompts_of_kernels, *shape, device=bench.device) / 8

    keys, values, queries, hyper_in = random(7, 128), random(7, 128), random(7, 128), random(3, 32)
    read = queries[:, :4].contiguous()  # in the end the tokens of three masks and of the predicted IoU are
    kept = two_in_five(hyper_in[..., 0])
    first, _ = side.update_first(shared, keys, values, queries)
    second, _ = side.update_second(first, keys, values, read)
    masks = F.interpolate(random(1, 12, 12) * 64, (4 * NUM_ROWS, 256), mode="bicubic")[:, 0].contiguous()
    upscaling = Upscaling(random_sam(bench.device), INPUT_SIZE_HW, SIZE_HW)
    return {
        "first layer": lambda: side.update_first(shared, keys, values, queries),
        "second layer": lambda: side.update_second(first, keys, values, read),
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
