"""The image side as batched matrix products, on any device.

The image tokens of all prompts of a call are in memory. They are never projected: the projections are folded into the
vectors of the prompt tokens instead, which are fewer than the channels of a projection. See docs/decoder.md, "Folded
projections" and "Batched". Legend: see `image_side`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam_pipeline.masks.decoder.image_side import ImageSideWeights, SharedTokens, score_root
from sam_pipeline.model.networks.two_way_transformer import Attention

_PROMPTS_UPSCALED_AT_ONCE = 16
"""Prompts upscaled together: the finest channels of each take 8 MB in float32."""


class BatchedImageSide:
    """See `ImageSide`; the state is the image tokens of each prompt, (N, K, C).

    Args:
        weights: on the device to use.
        dtype: of the image tokens and of the products with them. Averages, softmaxes over the image, and mask logits
            are float32 in any case.
        prompts_at_once: image tokens of a prompt are 4 MB in float32, and some four times that while a layer runs: for
            128, 2 GB in all.
    """

    max_tokens: float = math.inf

    def __init__(
        self, weights: ImageSideWeights, dtype: torch.dtype = torch.float32, prompts_at_once: int = 128
    ) -> None:
        self.prompts_at_once = prompts_at_once
        self._weights = weights
        self._dtype = dtype
        self._key_pe = weights.key_pe.to(dtype)
        self._up1 = weights.up1[0].to(dtype), weights.up1[1].to(dtype)
        self._up2 = weights.up2[0].to(dtype), weights.up2[1].to(dtype)

    def share(self, tokens: SharedTokens) -> SharedTokens:
        """See `ImageSide`; nothing is needed but the tokens."""
        return tokens

    def update_first(
        self, shared: SharedTokens, keys: Tensor, values: Tensor, queries: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See `ImageSide`."""
        attentions = self._weights.attentions
        to_tokens, to_image = attentions.first_to_tokens, attentions.second_to_image
        image_tokens = shared.image_tokens.to(self._dtype)
        image_queries = shared.image_queries.transpose(0, 1).flatten(1).to(self._dtype)  # (K, H * D)
        block_keys = _block_diagonal(keys / score_root(to_tokens), to_tokens).to(self._dtype)
        scores = block_keys @ image_queries.T  # (N, H * T, K)
        return self._update(0, image_tokens.expand(len(scores), -1, -1), scores, values, queries, to_tokens, to_image)

    def update_second(self, state: Tensor, keys: Tensor, values: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
        """See `ImageSide`."""
        attentions = self._weights.attentions
        to_tokens, final = attentions.second_to_tokens, attentions.final_to_image
        bias = (_heads(keys, to_tokens) * _heads(to_tokens.q_proj.bias, to_tokens)).sum(-1) / score_root(to_tokens)
        scores = torch.baddbmm(
            bias.transpose(1, 2).flatten(1)[:, :, None].to(self._dtype),  # (N, H * T, 1)
            _fold(keys, to_tokens.q_proj, to_tokens).to(self._dtype),
            (state + self._key_pe).mT,
        )  # (N, H * T, K)
        return self._update(1, state, scores, values, queries, to_tokens, final)

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
        self,
        layer: int,
        image_tokens: Tensor,
        scores: Tensor,
        values: Tensor,
        queries: Tensor,
        to_tokens: Attention,
        to_image: Attention,
    ) -> tuple[Tensor, Tensor]:
        """Update image tokens by their attention to the tokens of a prompt, then attend to them.

        Args:
            layer: 0 or 1.
            image_tokens: (N, K, C).
            scores: of the image tokens with the tokens' keys, (N, H * T, K).
            values: of the tokens, (N, T, H * D).
            queries: of the tokens that attend to the image, (N, Q, H * D).
            to_tokens: the attention of the values.
            to_image: that of the queries.

        Returns:
            Updated image tokens, (N, K, C); attended values, (N, Q, H * D) float32.
        """
        norm = self._weights.norms[layer]
        by_head = scores.view(len(image_tokens), self._weights.num_heads, -1, scores.shape[2])  # (N, H, T, K)
        attention = by_head.softmax(dim=2, dtype=torch.float32).to(self._dtype).flatten(1, 2)
        residual_sum = torch.baddbmm(
            image_tokens, attention.mT, _fold_output(values, to_tokens).to(self._dtype)
        ).float()
        updated = F.layer_norm(residual_sum, norm.normalized_shape, norm.weight, norm.bias, norm.eps).to(self._dtype)
        folded_queries = _fold(queries, to_image.k_proj, to_image).to(self._dtype)
        scores = folded_queries @ (updated + self._key_pe).mT  # (N, H * Q, K)
        attention = scores.softmax(dim=-1, dtype=torch.float32).to(self._dtype)
        return updated, _project_averages((attention @ updated).float(), to_image)


def _heads(x: Tensor, attn: Attention) -> Tensor:
    """(..., H * D) → (..., H, D)."""
    return x.view(*x.shape[:-1], attn.num_heads, -1)


def _fold(x: Tensor, projection: nn.Linear, attn: Attention) -> Tensor:
    """Vectors whose products with image tokens are the attention scores of x with the projected image tokens.

    Args:
        x: queries or keys of the tokens, (N, T, H * D).
        projection: of the image tokens, without its bias.
        attn: the attention of both.

    Returns:
        (N, H * T, C).
    """
    weight = projection.weight.view(attn.num_heads, -1, projection.in_features)  # (H, D, C)
    return torch.einsum("nthd,hdc->nhtc", _heads(x, attn) / score_root(attn), weight).flatten(1, 2)


def _fold_output(values: Tensor, attn: Attention) -> Tensor:
    """Values of the tokens (N, T, H * D) times the output projection, 1 / H of its bias in each: (N, H * T, C)."""
    weight = attn.out_proj.weight.T.reshape(attn.num_heads, -1, attn.out_proj.out_features)  # (H, D, C)
    by_head = torch.einsum("nthd,hdc->nhtc", _heads(values, attn), weight)
    return (by_head + attn.out_proj.bias / attn.num_heads).flatten(1, 2)


def _project_averages(averages: Tensor, attn: Attention) -> Tensor:
    """Value projection of averaged image tokens, (N, H * T, C) → (N, T, H * D)."""
    weight = attn.v_proj.weight.view(attn.num_heads, -1, attn.v_proj.in_features)  # (H, D, C)
    by_head = averages.view(len(averages), attn.num_heads, -1, averages.shape[-1])  # (N, H, T, C)
    return torch.einsum("nhtc,hdc->nthd", by_head, weight).flatten(2) + attn.v_proj.bias


def _block_diagonal(x: Tensor, attn: Attention) -> Tensor:
    """(N, T, H * D) → (N, H * T, H * D), each row zero outside its head: one product instead of one a head."""
    N, T, _ = x.shape
    by_head = _heads(x, attn)  # (N, T, H, D)
    blocks = x.new_zeros(N, attn.num_heads, T, attn.num_heads, by_head.shape[-1])
    for head in range(attn.num_heads):
        blocks[:, head, :, head] = by_head[:, :, head]
    return blocks.view(N, attn.num_heads * T, -1)
