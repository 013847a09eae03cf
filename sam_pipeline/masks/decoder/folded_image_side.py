"""An image side that holds, or rebuilds, the image tokens of a prompt, and projects none of them.

The projections are folded into the vectors of the prompt tokens, which are fewer than the channels of a projection; see
docs/decoder.md, "Folded projections". Legend: see `image_side`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Generic

import torch
from torch import Tensor, nn

from sam_pipeline.masks.decoder.image_side import AfterFirst, AfterSecond, ImageSideAttentions, SharedTokens, score_root
from sam_pipeline.model.networks.two_way_transformer import Attention


class FoldedImageSide(ABC, Generic[AfterFirst, AfterSecond]):
    """An `ImageSide` whose layers take folded queries, keys and values.

    Args:
        attentions: whose projections are folded.
    """

    prompts_at_once: int
    max_tokens: float

    def __init__(self, attentions: ImageSideAttentions) -> None:
        self._attentions = attentions

    def share(self, tokens: SharedTokens) -> SharedTokens:
        """See `ImageSide`; nothing is needed but the tokens."""
        return tokens

    def update_first(
        self, shared: SharedTokens, keys: Tensor, values: Tensor, queries: Tensor
    ) -> tuple[AfterFirst, Tensor]:
        """See `ImageSide`."""
        to_tokens, to_image = self._attentions.first_to_tokens, self._attentions.second_to_image
        state, averages = self.first_layer(
            shared,
            _block_diagonal(keys / score_root(to_tokens), to_tokens),
            _fold_output(values, to_tokens),
            _fold(queries, to_image.k_proj, to_image),
        )
        return state, _project_averages(averages, to_image)

    def update_second(
        self, state: AfterFirst, keys: Tensor, values: Tensor, queries: Tensor
    ) -> tuple[AfterSecond, Tensor]:
        """See `ImageSide`."""
        to_tokens, final = self._attentions.second_to_tokens, self._attentions.final_to_image
        bias = (_heads(keys, to_tokens) * _heads(to_tokens.q_proj.bias, to_tokens)).sum(-1) / score_root(to_tokens)
        after, averages = self.second_layer(
            state,
            _fold(keys, to_tokens.q_proj, to_tokens),
            bias.transpose(1, 2).flatten(1),  # (N, H * T)
            _fold_output(values, to_tokens),
            _fold(queries, final.k_proj, final),
        )
        return after, _project_averages(averages, final)

    @abstractmethod
    def first_layer(
        self, shared: SharedTokens, block_keys: Tensor, folded_values: Tensor, folded_queries: Tensor
    ) -> tuple[AfterFirst, Tensor]:
        """First layer, image to tokens; then the second layer's attention from the tokens to the image.

        Args:
            shared: of the image.
            block_keys: keys of the tokens over the root of D, (N, H * T, H * D), zero outside their head.
            folded_values: values of the tokens times the output projection, (N, H * T, C).
            folded_queries: queries of the second layer's tokens times the key projection, (N, H * T, C).

        Returns:
            State; for each query the image tokens averaged by its attention weights, (N, H * T, C).
        """

    @abstractmethod
    def second_layer(
        self, state: AfterFirst, folded_keys: Tensor, score_bias: Tensor, folded_values: Tensor, folded_queries: Tensor
    ) -> tuple[AfterSecond, Tensor]:
        """Second layer, image to tokens; then the final attention from some tokens to the image.

        Args:
            state: from `first_layer`; not to be used again.
            folded_keys: keys of the tokens times the query projection, (N, H * T, C).
            score_bias: keys of the tokens times the bias of that projection, (N, H * T).
            folded_values: as in `first_layer`.
            folded_queries: queries of some tokens times the key projection of the final attention, (N, H * Q, C).

        Returns:
            State; for each query the image tokens averaged by its attention weights, (N, H * Q, C).
        """

    @abstractmethod
    def upscale(
        self, state: AfterSecond, hyper_in: Tensor, keep_mask: Tensor, size: tuple[int, int], num_rows: int
    ) -> Tensor:
        """See `ImageSide`."""


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
