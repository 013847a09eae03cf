"""The passes over the image tokens as batched products, for a device with memory to spare and no kernels of its own.

All prompts of a call are in each operation. Legend: see `image_side`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from sam_pipeline.masks.decoder.image_side import ImageSideWeights, SharedTokens

_PROMPTS_UPSCALED_AT_ONCE = 16
"""The finest channels of a prompt are 8 MB."""


class BatchedImageSide:
    """The passes on any device. See `AbsorbedPasses`.

    Args:
        weights: on the device to use.
        dtype: of the image tokens and of the products with them. Averages, softmaxes over the image, and mask logits
            are float32 in any case.
        prompts_at_once: image tokens of a prompt are 4 MB in float32, and some four times that while a pass runs: for
            128, 2 GB in all.
    """

    max_tokens = math.inf

    def __init__(
        self, weights: ImageSideWeights, dtype: torch.dtype = torch.float32, prompts_at_once: int = 128
    ) -> None:
        self.prompts_at_once = prompts_at_once
        self._weights = weights
        self._dtype = dtype
        self._key_pe = weights.key_pe.to(dtype)
        self._up1 = weights.up1[0].to(dtype), weights.up1[1].to(dtype)
        self._up2 = weights.up2[0].to(dtype), weights.up2[1].to(dtype)

    def update_first(
        self, shared: SharedTokens, key_scores: Tensor, values: Tensor, pulls: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See `AbsorbedPasses`; the state is the image tokens, (N, K, C)."""
        logits = key_scores.to(self._dtype) @ shared.image_queries.to(self._dtype).T  # (N, H * T, K)
        keys = shared.keys.to(self._dtype).expand(len(logits), -1, -1)
        return self._update(0, keys, logits, values, pulls)

    def update_second(
        self, state: Tensor, pushes: Tensor, push_bias: Tensor, values: Tensor, pulls: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See `AbsorbedPasses`; the state is the image tokens, (N, K, C)."""
        logits = torch.baddbmm(
            push_bias[:, :, None].to(self._dtype), pushes.to(self._dtype), (state + self._key_pe).mT
        )  # (N, H * T, K)
        return self._update(1, state, logits, values, pulls)

    def upscale(self, state: Tensor, hyper_in: Tensor, kept: Tensor, size: tuple[int, int], num_rows: int) -> Tensor:
        """See `AbsorbedPasses`."""
        live = kept.any(dim=1).nonzero().flatten()
        masks = [
            self._upscale(state[some, : num_rows * size[1]], hyper_in[some], size[1])
            for some in torch.split(live, _PROMPTS_UPSCALED_AT_ONCE)
            if len(some)  # nothing is split into one part of nothing
        ]
        return torch.cat([hyper_in.new_empty((0, hyper_in.shape[1], 4 * num_rows, 4 * size[1])), *masks])[kept[live]]

    def _upscale(self, keys: Tensor, hyper_in: Tensor, w: int) -> Tensor:
        """All mask logits of some prompts, (n, M, 4 * rows, 4 * w), from keys (n, rows * w, C) and hyper_in."""
        (up1, up1_bias), (up2, up2_bias), norm = self._up1, self._up2, self._weights.up_norm
        fine = torch.addmm(up1_bias, keys.flatten(0, 1), up1).view(-1, len(up2)).float()
        fine = F.gelu(F.layer_norm(fine, (len(up2),), norm.weight, norm.bias, norm.eps)).to(self._dtype)
        finest = F.gelu(torch.addmm(up2_bias, fine, up2).float()).view(len(keys), -1, hyper_in.shape[2])
        pixels = (finest @ hyper_in.mT).view(len(keys), -1, w, 2, 2, 2, 2, hyper_in.shape[1])
        return pixels.permute(0, 7, 1, 3, 5, 2, 4, 6).reshape(len(keys), hyper_in.shape[1], -1, 4 * w)

    def _update(self, layer: int, keys: Tensor, logits: Tensor, values: Tensor, pulls: Tensor) -> tuple[Tensor, Tensor]:
        """Add values (N, H * T, C) to keys (N, K, C) by their logits (N, H * T, K), normalise, and average."""
        norm = self._weights.norms[layer]
        by_head = logits.view(len(keys), self._weights.num_heads, -1, logits.shape[2])  # (N, H, T, K)
        weights = by_head.softmax(dim=2, dtype=torch.float32).to(self._dtype).flatten(1, 2)
        summed = torch.baddbmm(keys, weights.mT, values.to(self._dtype)).float()
        keys = F.layer_norm(summed, norm.normalized_shape, norm.weight, norm.bias, norm.eps).to(self._dtype)
        scores = pulls.to(self._dtype) @ (keys + self._key_pe).mT  # (N, H * Q, K)
        averaging = scores.softmax(dim=-1, dtype=torch.float32).to(self._dtype)
        return keys, (averaging @ keys).float()
