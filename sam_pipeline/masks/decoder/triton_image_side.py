"""The passes over the image tokens as Triton kernels that rebuild the tokens instead of storing them.

What a prompt has made of the image tokens follows from what all prompts share (5 MB in bfloat16, which stay in the
second-level cache) and from some hundred rows of its own. So the two passes that average tokens rebuild them on the
chip, a tile at a time; stored, they would be 2 MB a prompt, written twice and read twice. Only prompts with a mask
worth upscaling have their final tokens written.

A program has one prompt and some of its tiles. The kernels are in triton_kernels.py. Legend: see `image_side`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
import triton
from torch import Tensor

from sam_pipeline.masks.decoder import triton_kernels as kernels
from sam_pipeline.masks.decoder.image_side import ImageSideWeights, SharedTokens

Layers = tuple[Any, ...]
"""What kernels rebuild image tokens from: their first arguments."""


@dataclass(frozen=True)
class Launch:
    """How the work of a kernel is cut."""

    tile: int
    """Tokens at once, a power of two of at least 16."""
    num_warps: int
    num_stages: int


class TritonImageSide:
    """The passes on a Hopper GPU. See `AbsorbedPasses`.

    For prompts of at most 8 tokens, such as one or two points or a box.

    Args:
        weights: on the device to use.
        dtype: of image tokens and of the operands of products. Sums, norms, softmaxes and mask logits are float32.
    """

    prompts_at_once = 1024
    """0.3 MB each and, if a mask is worth upscaling, 2 MB."""

    max_tokens: float = 8
    """The rows of more, padded to 16 a head, would not fit into 227 KB of shared memory."""

    averaging = Launch(tile=64, num_warps=8, num_stages=1)
    rebuilding = Launch(tile=64, num_warps=8, num_stages=1)
    upscaling = Launch(tile=128, num_warps=8, num_stages=1)

    def __init__(self, weights: ImageSideWeights, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._num_heads = weights.num_heads
        self._key_pe = weights.key_pe.T.to(dtype).contiguous()  # (C, K)
        first, second, up = (
            (norm.weight.detach(), norm.bias.detach(), norm.eps) for norm in (*weights.norms, weights.up_norm)
        )
        self._norms = first, second
        (up1, up1_bias), (up2, up2_bias) = weights.up1, weights.up2
        self._up = up1.to(dtype), up1_bias, *up, up2.to(dtype), up2_bias
        device = weights.key_pe.device
        properties = torch.cuda.get_device_properties(device) if device.type == "cuda" else None
        self._processors = properties.multi_processor_count if properties else 1

    def update_first(
        self, shared: SharedTokens, key_scores: Tensor, values: Tensor, pulls: Tensor
    ) -> tuple[Layers, Tensor]:
        """See `AbsorbedPasses`."""
        image_queries, keys = (self._operand(tokens.T) for tokens in (shared.image_queries, shared.keys))
        layers = image_queries, keys, self._key_pe, self._operand(key_scores), self._operand(values), *self._norms[0]
        return layers, self._averages((*layers, *(None,) * 6), pulls)

    def update_second(
        self, state: Layers, pushes: Tensor, push_bias: Tensor, values: Tensor, pulls: Tensor
    ) -> tuple[Layers, Tensor]:
        """See `AbsorbedPasses`."""
        layers = *state, self._operand(pushes), push_bias.contiguous(), self._operand(values), *self._norms[1]
        # The kernel takes as many rows as there are tokens: with fewer than 64 it would lose Hopper's own products.
        N, C, H = len(pulls), pulls.shape[2], self._num_heads
        by_head = pulls.view(N, H, -1, C)
        missing = pushes.shape[1] // H - by_head.shape[2]
        averages = self._averages(layers, F.pad(by_head, (0, 0, 0, missing)).flatten(1, 2))
        return layers, averages.view(N, H, -1, C)[:, :, : by_head.shape[2]].flatten(1, 2)

    def upscale(self, state: Layers, hyper_in: Tensor, kept: Tensor, size: tuple[int, int], num_rows: int) -> Tensor:
        """See `AbsorbedPasses`."""
        live = kept.any(dim=1)
        num_masks, num_live = torch.stack([kept.sum(), live.sum()]).tolist()  # the only wait for the device
        N, M, channels = hyper_in.shape
        num_tokens, w = num_rows * size[1], size[1]
        tokens = self._key_pe.new_empty(num_live, num_tokens, len(self._key_pe))
        launch = self.rebuilding
        tokens_a_program, parts = self._parts(num_tokens, num_live, launch)
        kernels.rebuild[(N, parts)](
            *state, _places(live), tokens, self._key_pe.shape[1], num_tokens, tokens_a_program,
            **self._shapes(state), **_options(launch),
        )  # fmt: skip
        masks = hyper_in.new_empty(num_masks, 4 * num_rows, 4 * w)
        launch = self.upscaling
        kernels.upscale[(N, triton.cdiv(num_tokens, launch.tile))](
            tokens, *self._up, hyper_in.contiguous(), _places(live), _places(kept), masks, num_tokens, w,
            M=M, C=tokens.shape[2], F=len(self._up[5]), G=channels, **_options(launch),
        )  # fmt: skip
        return masks

    def _averages(self, layers: Layers, pulls: Tensor) -> Tensor:
        """Averages of the image tokens, (N, H * T, C), as pulls (N, H * T, C) weight them."""
        N, rows, C = pulls.shape
        num_tokens = self._key_pe.shape[1]
        tokens_a_program, parts = self._parts(num_tokens, N, self.averaging)
        averages, log_weights = pulls.new_empty(N, parts, rows, C), pulls.new_empty(N, parts, rows)
        kernels.average[(N, parts)](
            *layers, self._operand(pulls), averages, log_weights, num_tokens, tokens_a_program,
            **self._shapes(layers), **_options(self.averaging),
        )  # fmt: skip
        return (averages * log_weights.softmax(dim=1)[..., None]).sum(dim=1)

    def _parts(self, num_tokens: int, num_prompts: int, launch: Launch) -> tuple[int, int]:
        """Tokens a program, and programs a prompt: four programs a processor, lest the last ones be alone for long."""
        tiles = triton.cdiv(num_tokens, launch.tile)
        wanted = min(tiles, triton.cdiv(4 * self._processors, max(num_prompts, 1)))
        tokens_a_program = triton.cdiv(tiles, wanted) * launch.tile
        return tokens_a_program, triton.cdiv(num_tokens, tokens_a_program)

    def _shapes(self, layers: Layers) -> dict[str, int]:
        image_queries, keys, _, key_scores = layers[:4]
        T = key_scores.shape[1] // self._num_heads
        assert self.max_tokens >= T, f"{T} tokens a prompt"
        return {
            "T": T,
            "H": self._num_heads,
            "TP": triton.next_power_of_2(T),
            "D": image_queries.shape[0],
            "C": keys.shape[0],
        }

    def _operand(self, x: Tensor) -> Tensor:
        return x.to(self._dtype).contiguous()


def _options(launch: Launch) -> dict[str, Any]:
    return {
        "TILE": launch.tile,
        "num_warps": launch.num_warps,
        "num_stages": launch.num_stages,
        "enable_fp_fusion": True,
    }


def _places(chosen: Tensor) -> Tensor:
    """Where each of those chosen goes when only they are stored, and -1 for the others; int32."""
    return torch.where(chosen, chosen.flatten().cumsum(0).view_as(chosen) - 1, -1).to(torch.int32)
