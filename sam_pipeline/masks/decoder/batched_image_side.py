"""The image side as batched matrix products, on any device.

The image tokens of all prompts of a call are in memory. See docs/decoder.md, "Batched". Legend: see `image_side`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from sam_pipeline.masks.decoder.folded_image_side import FoldedImageSide
from sam_pipeline.masks.decoder.image_side import ImageSideWeights, SharedTokens

_PROMPTS_UPSCALED_AT_ONCE = 16
"""The finest channels of a prompt are 8 MB."""


class BatchedImageSide(FoldedImageSide[Tensor, Tensor]):
    """See `FoldedImageSide`; the state is the image tokens of each prompt, (N, K, C).

    Args:
        weights: on the device to use.
        dtype: of the image tokens and of the products with them. Averages, softmaxes over the image, and mask logits
            are float32 in any case.
        prompts_at_once: image tokens of a prompt are 4 MB in float32, and some four times that while a layer runs: for
            128, 2 GB in all.
    """

    max_tokens = math.inf

    def __init__(
        self, weights: ImageSideWeights, dtype: torch.dtype = torch.float32, prompts_at_once: int = 128
    ) -> None:
        super().__init__(weights.attentions)
        self.prompts_at_once = prompts_at_once
        self._weights = weights
        self._dtype = dtype
        self._key_pe = weights.key_pe.to(dtype)
        self._up1 = weights.up1[0].to(dtype), weights.up1[1].to(dtype)
        self._up2 = weights.up2[0].to(dtype), weights.up2[1].to(dtype)

    def first_layer(
        self, shared: SharedTokens, block_keys: Tensor, folded_values: Tensor, folded_queries: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See `FoldedImageSide`."""
        scores = block_keys.to(self._dtype) @ shared.image_queries.to(self._dtype).T  # (N, H * T, K)
        image_tokens = shared.image_tokens.to(self._dtype).expand(len(scores), -1, -1)
        return self._update(0, image_tokens, scores, folded_values, folded_queries)

    def second_layer(
        self, state: Tensor, folded_keys: Tensor, score_bias: Tensor, folded_values: Tensor, folded_queries: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See `FoldedImageSide`."""
        scores = torch.baddbmm(
            score_bias[:, :, None].to(self._dtype), folded_keys.to(self._dtype), (state + self._key_pe).mT
        )  # (N, H * T, K)
        return self._update(1, state, scores, folded_values, folded_queries)

    def upscale(
        self, state: Tensor, hyper_in: Tensor, keep_mask: Tensor, size: tuple[int, int], num_rows: int
    ) -> Tensor:
        """See `ImageSide`."""
        with_mask = keep_mask.any(dim=1).nonzero().flatten()
        masks = [
            self._upscale(state[some, : num_rows * size[1]], hyper_in[some], size[1])
            for some in torch.split(with_mask, _PROMPTS_UPSCALED_AT_ONCE)
            if len(some)  # torch.split makes one empty part of an empty tensor
        ]
        none = hyper_in.new_empty((0, hyper_in.shape[1], 4 * num_rows, 4 * size[1]))
        return torch.cat([none, *masks])[keep_mask[with_mask]]

    def _upscale(self, image_tokens: Tensor, hyper_in: Tensor, w: int) -> Tensor:
        """All mask logits of n prompts, (n, M, 4 * rows, 4 * w), from their image tokens (n, rows * w, C)."""
        (up1, up1_bias), (up2, up2_bias), norm = self._up1, self._up2, self._weights.up_norm
        fine = torch.addmm(up1_bias, image_tokens.flatten(0, 1), up1).view(-1, len(up2)).float()
        fine = F.gelu(F.layer_norm(fine, (len(up2),), norm.weight, norm.bias, norm.eps)).to(self._dtype)
        finest = F.gelu(torch.addmm(up2_bias, fine, up2).float()).view(len(image_tokens), -1, hyper_in.shape[2])
        pixels = (finest @ hyper_in.mT).view(len(image_tokens), -1, w, 2, 2, 2, 2, hyper_in.shape[1])
        return pixels.permute(0, 7, 1, 3, 5, 2, 4, 6).reshape(len(image_tokens), hyper_in.shape[1], -1, 4 * w)

    def _update(
        self, layer: int, image_tokens: Tensor, scores: Tensor, folded_values: Tensor, folded_queries: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Update image tokens by their attention to the tokens of a prompt, then attend to them.

        Args:
            layer: 0 or 1.
            image_tokens: (N, K, C).
            scores: of the image tokens with the tokens' keys, (N, H * T, K).
            folded_values: (N, H * T, C).
            folded_queries: (N, H * Q, C).

        Returns:
            Updated image tokens, (N, K, C); their averages, (N, H * Q, C) float32.
        """
        norm = self._weights.norms[layer]
        by_head = scores.view(len(image_tokens), self._weights.num_heads, -1, scores.shape[2])  # (N, H, T, K)
        attention = by_head.softmax(dim=2, dtype=torch.float32).to(self._dtype).flatten(1, 2)
        residual_sum = torch.baddbmm(image_tokens, attention.mT, folded_values.to(self._dtype)).float()
        updated = F.layer_norm(residual_sum, norm.normalized_shape, norm.weight, norm.bias, norm.eps).to(self._dtype)
        scores = folded_queries.to(self._dtype) @ (updated + self._key_pe).mT  # (N, H * Q, K)
        attention = scores.softmax(dim=-1, dtype=torch.float32).to(self._dtype)
        return updated, (attention @ updated).float()
