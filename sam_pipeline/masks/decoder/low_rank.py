"""Image tokens as factors of low rank: what that takes of the weights, and what all prompts of an image share.

After each layer the image tokens of a prompt are those that all prompts share, scaled token by token, plus a matrix of
low rank: attention weights times few vectors. docs/decoder.md, "Low rank", derives it; comments use its symbols.

Legend: H heads, D channels a head, C channels, K image tokens.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from sam_pipeline.masks.decoder.image_side import ImageSideWeights, SharedTokens
from sam_pipeline.model.networks.linear import linear


class SharedProjections(NamedTuple):
    """Projections of an image's tokens that all its prompts share, (K, H * D) but for the last."""

    cross1: Tensor
    """Z times the output projection of V, times 2 / C."""
    keys: Tensor
    """Second layer, tokens to image: keys of Z1."""
    values: Tensor
    """Values of Z1."""
    queries: Tensor
    """Second layer, image to tokens: queries of Z1."""
    cross21: Tensor
    """Z2 times the output projection of the first half of V2, times 2 / C."""
    cross22: Tensor
    """The same of the second half."""
    final_keys: Tensor
    """Final attention: keys of Z3."""
    final_values: Tensor
    """Values of Z3."""
    fine: Tensor
    """Z3 after the first transposed convolution, (K, C)."""


class SharedSquares(NamedTuple):
    """The shared parts of the variances, (K,) each."""

    first: Tensor
    """Mean square of the channels of Z."""
    second: Tensor
    """Of Z2."""
    cross_bias: Tensor
    """Twice the mean over the channels of Z2 times the bias before the second norm."""


class LowRankWeights:
    """The decoder's weights as the low-rank form needs them, float32.

    Args:
        weights: of the image side.
    """

    def __init__(self, weights: ImageSideWeights) -> None:
        attentions = weights.attentions
        first, second = weights.norms
        self.num_heads = weights.num_heads
        self.eps = first.eps, second.eps
        (g1, b1), (g2, b2) = ((norm.weight.detach(), norm.bias.detach()) for norm in (first, second))
        out1, out2 = (_detached(attn.out_proj) for attn in (attentions.first_to_tokens, attentions.second_to_tokens))
        self.second_weight = g2

        # Output projections that turn values of the tokens into V, V1, and both halves of V2 without the bias, (H * D,
        # C) each.
        self.output1 = centred(out1[0].T)
        self.output1_normed = self.output1 * g1
        self.outputs2 = centred(self.output1_normed), centred(out2[0].T)
        self.bias = centred(b1 + out2[1])  # which is added to every image token before the second norm

        # Projections of image tokens, and of what is the same for all prompts: the positional encoding, and the bias of
        # the norm. Its part in a key drops out of the softmax over keys; its part in a value is kept whole, since
        # attention weights sum to one.
        pe = weights.key_pe
        to_image, to_tokens, final = attentions.second_to_image, attentions.second_to_tokens, attentions.final_to_image
        self.key, _ = _detached(to_image.k_proj)
        self.key_pe = pe @ self.key.T
        self.value, self.value_bias = _detached(to_image.v_proj)[0], _value_of(b1, to_image.v_proj)
        self.query, query_bias = _detached(to_tokens.q_proj)
        self.query_pe = (pe + b1) @ self.query.T + query_bias
        self.final_key, _ = _detached(final.k_proj)
        self.final_key_pe = pe @ self.final_key.T
        self.final_value, self.final_value_bias = _detached(final.v_proj)[0], _value_of(b2, final.v_proj)
        up1, up1_bias = weights.up1
        self.up1, self.up1_bias = up1, b2 @ up1 + up1_bias

        # Everything that is shared is one product of image tokens, in which Z, Z1, Z2 and Z3 are linear. Its last
        # columns are Z, Z1 and cross_bias. The variances of Z and Z1 are the mean squares of Z and Z2.
        to_z = centred(torch.eye(len(g1), device=g1.device))
        to_z2 = centred(to_z * g1)
        to_z3 = to_z2 * g2
        share = 2 / len(g1)
        projections = SharedProjections(
            cross1=to_z @ self.output1.T * share,
            keys=(to_z * g1) @ self.key.T,
            values=(to_z * g1) @ self.value.T,
            queries=(to_z * g1) @ self.query.T,
            cross21=to_z2 @ self.outputs2[0].T * share,
            cross22=to_z2 @ self.outputs2[1].T * share,
            final_keys=to_z3 @ self.final_key.T,
            final_values=to_z3 @ self.final_value.T,
            fine=to_z3 @ up1,
        )
        cross_bias = to_z2 @ self.bias[:, None] * share
        # Padded to a multiple of 8, as products on GPUs want their rows.
        padding = cross_bias.new_zeros(len(g1), 7)
        self._projection = torch.cat([*projections, to_z, to_z * g1, cross_bias, padding], dim=1).T.contiguous()
        self._projection_bias = self._projection @ out1[1]
        self._widths = [projection.shape[1] for projection in projections]

    def share(self, tokens: SharedTokens, dtype: torch.dtype) -> tuple[SharedProjections, SharedSquares]:
        """Compute what all prompts of an image share.

        Args:
            tokens: of the image.
            dtype: of the projections.

        Returns:
            Projections, views of one tensor; and squares, float32, views likewise.
        """
        product = linear(tokens.image_tokens, self._projection, self._projection_bias)
        width, C = sum(self._widths), len(self.bias)
        projected = product[:, :width].to(dtype)
        both = product[:, width : width + 2 * C].view(len(product), 2, C)
        first, second = both.var(dim=2, correction=0).unbind(dim=1)
        squares = SharedSquares(first, second, product[:, width + 2 * C])
        return SharedProjections(*torch.split(projected, self._widths, dim=1)), squares


def centred(x: Tensor) -> Tensor:
    """Without the mean of the channels, (..., C)."""
    return x - x.mean(dim=-1, keepdim=True)


def _detached(projection: nn.Linear) -> tuple[Tensor, Tensor]:
    return projection.weight.detach(), projection.bias.detach()


def _value_of(x: Tensor, v_proj: nn.Linear) -> Tensor:
    """Value projection of a vector (C,), with its bias: (H * D,)."""
    weight, bias = _detached(v_proj)
    return weight @ x + bias
