"""The image side where image tokens are held, or rebuilt: the prompt absorbs their projections.

No image token is ever projected. T tokens of 8 heads are 8 T vectors, fewer than the channels of a projection: scores
are keys · (W_k^T q), and values are averaged before they are projected. A bias of the keys drops out of a softmax over
keys, and a bias of the values adds up to itself, since weights sum to one.

Legend: see `image_side`.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from sam_pipeline.masks.decoder.image_side import ImageSideAttentions, SharedTokens, score_root
from sam_pipeline.model.networks.two_way_transformer import Attention


class AbsorbedPasses(Protocol):
    """The passes of an `ImageSide`, once the vectors of a prompt are brought to the channels of image tokens."""

    prompts_at_once: int
    max_tokens: float

    def update_first(
        self, shared: SharedTokens, key_scores: Tensor, values: Tensor, pulls: Tensor
    ) -> tuple[Any, Tensor]:
        """First layer, image to tokens, then the averages that the second layer's tokens ask for.

        Args:
            shared: of the image.
            key_scores: keys of the tokens over the root of D, (N, H * T, H * D), zero outside their head.
            values: their values after the output projection, (N, H * T, C).
            pulls: what the tokens of the second layer look for, (N, H * T, C).

        Returns:
            State; averages of the image tokens as the second layer's tokens weight them, (N, H * T, C).
        """
        ...

    def update_second(
        self, state: Any, pushes: Tensor, push_bias: Tensor, values: Tensor, pulls: Tensor
    ) -> tuple[Any, Tensor]:
        """Second layer, image to tokens, then the averages that the final attention asks for.

        Args:
            state: from `update_first`; not to be used again.
            pushes: keys of the tokens before the projection of queries, (N, H * T, C).
            push_bias: their products with the bias of that projection, (N, H * T).
            values: as in `update_first`.
            pulls: what some tokens, in the final attention, look for, (N, H * Q, C).

        Returns:
            State; averages of the image tokens as those tokens weight them, (N, H * Q, C).
        """
        ...

    def upscale(self, state: Any, hyper_in: Tensor, kept: Tensor, size: tuple[int, int], num_rows: int) -> Tensor:
        """See `ImageSide`."""
        ...


class AbsorbingImageSide:
    """An `ImageSide` of absorbed passes.

    Args:
        passes: on the device of the weights.
        attentions: whose projections are absorbed.
    """

    def __init__(self, passes: AbsorbedPasses, attentions: ImageSideAttentions) -> None:
        self.passes = passes
        self.prompts_at_once, self.max_tokens = passes.prompts_at_once, passes.max_tokens
        self._attentions = attentions

    def share(self, tokens: SharedTokens) -> SharedTokens:
        """See `ImageSide`; the tokens are all there is."""
        return tokens

    def update_first(self, shared: SharedTokens, keys: Tensor, values: Tensor, queries: Tensor) -> tuple[Any, Tensor]:
        """See `ImageSide`."""
        to_tokens, to_image = self._attentions.first_to_tokens, self._attentions.second_to_image
        state, averages = self.passes.update_first(
            shared,
            _block_diagonal(keys / score_root(to_tokens), to_tokens),
            _projected_values(to_tokens, values),
            _absorb(queries, to_image.k_proj, to_image),
        )
        return state, _value_of_averages(to_image, averages)

    def update_second(self, state: Any, keys: Tensor, values: Tensor, queries: Tensor) -> tuple[Any, Tensor]:
        """See `ImageSide`."""
        to_tokens, final = self._attentions.second_to_tokens, self._attentions.final_to_image
        bias = (_heads(keys, to_tokens) * _heads(to_tokens.q_proj.bias, to_tokens)).sum(-1) / score_root(to_tokens)
        state, averages = self.passes.update_second(
            state,
            _absorb(keys, to_tokens.q_proj, to_tokens),
            bias.transpose(1, 2).flatten(1),  # (N, H * T)
            _projected_values(to_tokens, values),
            _absorb(queries, final.k_proj, final),
        )
        return state, _value_of_averages(final, averages)

    def upscale(self, state: Any, hyper_in: Tensor, kept: Tensor, size: tuple[int, int], num_rows: int) -> Tensor:
        """See `ImageSide`."""
        return self.passes.upscale(state, hyper_in, kept, size, num_rows)


def _heads(x: Tensor, attn: Attention) -> Tensor:
    """(..., H * D) → (..., H, D)."""
    return x.view(*x.shape[:-1], attn.num_heads, -1)


def _absorb(x: Tensor, projection: nn.Linear, attn: Attention) -> Tensor:
    """Vectors whose products with image tokens are the scores of x with their projections.

    Args:
        x: queries or keys of the tokens, (N, T, H * D).
        projection: of the image tokens, without its bias.
        attn: the attention of both.

    Returns:
        (N, H * T, C).
    """
    weight = projection.weight.view(attn.num_heads, -1, projection.in_features)  # (H, D, C)
    return torch.einsum("nthd,hdc->nhtc", _heads(x, attn) / score_root(attn), weight).flatten(1, 2)


def _value_of_averages(attn: Attention, averages: Tensor) -> Tensor:
    """Value projection of averaged image tokens, (N, H * T, C) → (N, T, H * D)."""
    weight = attn.v_proj.weight.view(attn.num_heads, -1, attn.v_proj.in_features)  # (H, D, C)
    by_head = averages.view(len(averages), attn.num_heads, -1, averages.shape[-1])  # (N, H, T, C)
    return torch.einsum("nhtc,hdc->nthd", by_head, weight).flatten(2) + attn.v_proj.bias


def _projected_values(attn: Attention, values: Tensor) -> Tensor:
    """Values of the tokens after the output projection, a share of its bias with each head, (N, H * T, C)."""
    weight = attn.out_proj.weight.T.reshape(attn.num_heads, -1, attn.out_proj.out_features)  # (H, D, C)
    by_head = torch.einsum("nthd,hdc->nhtc", _heads(values, attn), weight)
    return (by_head + attn.out_proj.bias / attn.num_heads).flatten(1, 2)


def _block_diagonal(x: Tensor, attn: Attention) -> Tensor:
    """(N, T, H * D) → (N, H * T, H * D), each row zero outside its head: one product instead of one a head."""
    N, T, _ = x.shape
    by_head = _heads(x, attn)  # (N, T, H, D)
    blocks = x.new_zeros(N, attn.num_heads, T, attn.num_heads, by_head.shape[-1])
    for head in range(attn.num_heads):
        blocks[:, head, :, head] = by_head[:, :, head]
    return blocks.view(N, attn.num_heads * T, -1)
