"""What the tokens of an image's prompts would take on an H200 that need not be there: `TritonTokenSide` in float16.

It runs on the meta device. Each operation takes what its bytes do, as if no cache helped, and what its products do;
those are float32, without tensor cores, but for the attention to the image. Kernels of Triton count by their bytes.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import NamedTuple
from unittest import mock

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measured.encoder_traffic import CountedKernel, TrafficCounter
from sam_pipeline.masks.decoder.gpu import token_side
from sam_pipeline.masks.decoder.gpu.token_side import TritonTokenSide
from sam_pipeline.masks.decoder.image_side import SharedTokens
from sam_pipeline.model.sam import AbsentEncoder, assemble_sam

_BYTES_A_SECOND = 0.8 * 4.0e12
_FLOP_A_SECOND = 0.7 * 67e12
"""Float32 without tensor cores; of which cuBLAS reaches so much."""
_ATTENTION_FLOP_A_SECOND = 0.3 * 990e12
"""Float16 on tensor cores; with heads of 16 channels attention is bound by exponentials."""
_KERNELS = ("embed_prompts", "add_norm", "head_layer")


class TokenEstimate(NamedTuple):
    """Of all prompts of an image."""

    gigabytes: float
    products_teraflop: float
    attention_teraflop: float
    ms: float


def estimate_tokens(num_prompts: int) -> TokenEstimate:
    """Estimate all steps of the token side for prompts of one point each."""
    traffic, flop = TrafficCounter(), FlopCounterMode(display=False)
    with ExitStack() as stack:
        stack.enter_context(torch.device("meta"))
        sam = assemble_sam(AbsentEncoder(img_size=1024)).eval().requires_grad_(False).to("meta")
        side = TritonTokenSide(sam, torch.float16)
        keys = torch.empty(8, 4096, 16, dtype=torch.float16)
        image = SharedTokens(torch.empty(4096, 256), (64, 64), keys, keys, keys)
        points = torch.empty(num_prompts, 1, 2), torch.empty(num_prompts, 1)
        for name in _KERNELS:
            stack.enter_context(mock.patch.object(token_side, name, CountedKernel(name, traffic)))
        for context in (torch.inference_mode(), flop, traffic):
            stack.enter_context(context)
        pe, read = side.embed((points[0], points[1]), None), side.read(multimask_output=True)
        tokens, _, _, queries = side.first(pe, image)
        tokens, _, _, queries = side.second(tokens, queries, pe, read)
        side.final(tokens, queries, read)
    products, num_bytes = flop.get_total_flops(), sum(traffic.num_bytes.values())
    # Which the counter does not know on this device: scores, and their products with values.
    attention = 4 * num_prompts * pe.shape[1] * keys.shape[0] * keys.shape[1] * keys.shape[2]
    seconds = num_bytes / _BYTES_A_SECOND + products / _FLOP_A_SECOND + attention / _ATTENTION_FLOP_A_SECOND
    return TokenEstimate(num_bytes / 1e9, products / 1e12, attention / 1e12, 1000 * seconds)
