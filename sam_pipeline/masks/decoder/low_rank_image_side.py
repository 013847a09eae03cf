"""The image side on a CPU: the image tokens of a prompt are never computed, see `low_rank`.

Scores, averages and variances are computed from factors. docs/decoder.md, "Low rank", derives it; comments here use its
symbols. Coefficients and scores are transposed here: image tokens are columns.

Legend: N prompts, T tokens a prompt, Q of them that the output heads read, H heads, D channels a head, R = H * T, C
channels, K image tokens, h w rows and columns of the image embedding, M masks a prompt.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sam_pipeline.masks.decoder.image_side import ImageSideWeights, SharedTokens, score_root
from sam_pipeline.masks.decoder.low_rank import LowRankWeights, SharedSquares
from sam_pipeline.masks.decoder.upscaling_kernels import mask_logits, upscale_once
from sam_pipeline.model.networks.linear import linear

# Image tokens upscaled at once: a quarter of each becomes 128 numbers, 0.5 MB in all. Not a power of two: rows at such
# a stride evict each other from the cache.
_TILE = 960


@dataclass(frozen=True)
class _SharedColumns:
    """What all prompts of an image share: `SharedProjections` by head and transposed, but for values."""

    image_queries: Tensor
    """First layer, image to tokens: queries, (H, D, K)."""
    cross1: Tensor
    """(H, D, K)."""
    keys: Tensor
    """(H, D, K)."""
    values: Tensor
    """(H, K, D)."""
    queries: Tensor
    """(H, D, K)."""
    cross2: tuple[Tensor, Tensor]
    """(H, D, K) each."""
    final_keys: Tensor
    """(H, D, K)."""
    final_values: Tensor
    """(H, K, D)."""
    fine: Tensor
    """(4 * C / 4, K)."""
    squares: SharedSquares


@dataclass(frozen=True)
class _FirstLayer:
    """Image tokens of N prompts after the first layer, as factors."""

    shared: _SharedColumns
    coefficients: Tensor
    """r1 A1, then room for A2, (N, 2 * R, K)."""
    rstd1: Tensor
    """(N, K)."""
    values: Tensor
    """Of the tokens in the first layer, (N, T, H * D)."""


@dataclass(frozen=True)
class _BothLayers:
    """Image tokens of N prompts after both layers, as factors."""

    shared: _SharedColumns
    coefficients: Tensor
    """r1 A1, then A2, (N, 2 * R, K)."""
    rstds: tuple[Tensor, Tensor]
    """r1 and r2, reciprocal standard deviations of the norms, (N, K) each."""
    vectors: Tensor
    """V3, (N, 2 * R, C)."""


class LowRankImageSide:
    """See `ImageSide`; in float32, on a CPU.

    Args:
        weights: of the image side.
    """

    prompts_at_once = 8
    """Their scores are computed in one product, which stays in the third-level cache."""
    max_tokens: float = 24
    """R = 192: the products of R x R cost less than those of C x C only while R is below C = 256."""

    def __init__(self, weights: ImageSideWeights) -> None:
        self._num_heads = weights.num_heads
        self._low_rank = low_rank = LowRankWeights(weights)
        self._roots = [score_root(attn) for attn in weights.attentions]
        self._output1, self._output1_normed = self._by_head(low_rank.output1), self._by_head(low_rank.output1_normed)
        self._outputs2 = [self._by_head(output) for output in low_rank.outputs2]
        self._query, self._key, self._final_key = (
            self._by_head(matrix) for matrix in (low_rank.query, low_rank.key, low_rank.final_key)
        )
        self._key_pe, self._query_pe, self._final_key_pe = (
            self._columns(pe) for pe in (low_rank.key_pe, low_rank.query_pe, low_rank.final_key_pe)
        )
        self._value_bias, self._final_value_bias = (
            bias.view(self._num_heads, 1, -1) for bias in (low_rank.value_bias, low_rank.final_value_bias)
        )
        up2, self._up2_bias = weights.up2
        self._up2, self._up_norm = up2.T.contiguous(), weights.up_norm

    def share(self, tokens: SharedTokens) -> _SharedColumns:
        """See `ImageSide`."""
        rows, squares = self._low_rank.share(tokens, torch.float32)
        return _SharedColumns(
            image_queries=tokens.image_queries.transpose(1, 2).contiguous(),
            cross1=self._columns(rows.cross1),
            keys=self._columns(rows.keys),
            values=self._columns(rows.values).transpose(1, 2).contiguous(),
            queries=self._columns(rows.queries),
            cross2=(self._columns(rows.cross21), self._columns(rows.cross22)),
            final_keys=self._columns(rows.final_keys),
            final_values=self._columns(rows.final_values).transpose(1, 2).contiguous(),
            fine=rows.fine.T.contiguous(),
            squares=squares,
        )

    def update_first(
        self, shared: _SharedColumns, keys: Tensor, values: Tensor, queries: Tensor
    ) -> tuple[_FirstLayer, Tensor]:
        """See `ImageSide`."""
        N, T, H, K = *keys.shape[:2], self._num_heads, shared.image_queries.shape[2]
        keys, queries = keys / self._roots[0], queries / self._roots[1]
        scores1, cross = self._scores(keys, shared.image_queries), self._scores(values, shared.cross1)
        shared_scores, pe_scores = self._scores(queries, shared.keys), self._scores(queries, self._key_pe)
        centred, vectors = self._fold(values, self._output1), self._fold(values, self._output1_normed)
        gram = centred @ centred.mT / centred.shape[2]  # (N, R, R)
        query_vectors = self._fold(queries, self._key) @ vectors.mT  # (N, R, R)
        own_values = (vectors @ self._low_rank.value.T).view(N, H * T, H, -1).transpose(1, 2)  # (N, H, R, D)
        coefficients, rstd1 = keys.new_empty(N, 2 * H * T, K), keys.new_empty(N, K)
        attended = torch.empty_like(queries)
        for n in range(N):
            attention = scores1[:, n].softmax(dim=1).flatten(0, 1)  # A1, (R, K)
            squares = _product(gram[n], attention)
            squares.view(H, T, K).add_(cross[:, n])
            variance = shared.squares.first + squares.mul_(attention).sum(dim=0)
            r1 = rstd1[n] = _rstd(variance, self._low_rank.eps[0])
            w1 = torch.mul(attention, r1, out=coefficients[n, : H * T])
            scores = _product(query_vectors[n], w1)
            scores.view(H, T, K).addcmul_(shared_scores[:, n], r1).add_(pe_scores[:, n])
            attended[n] = self._attend(scores, w1, r1, shared.values, own_values[n], self._value_bias)
        return _FirstLayer(shared, coefficients, rstd1, values), attended

    def update_second(
        self, state: _FirstLayer, keys: Tensor, values: Tensor, queries: Tensor
    ) -> tuple[_BothLayers, Tensor]:
        """See `ImageSide`."""
        shared, coefficients = state.shared, state.coefficients
        N, T, H, K, Q = *keys.shape[:2], self._num_heads, coefficients.shape[2], queries.shape[1]
        R = H * T
        keys, queries = keys / self._roots[2], queries / self._roots[3]
        shared_scores2, pe_scores2 = self._scores(keys, shared.queries), self._scores(keys, self._query_pe)
        both_values = (state.values, values)
        crosses = [self._scores(own, cross) for own, cross in zip(both_values, shared.cross2, strict=True)]
        shared_scores = self._scores(queries, shared.final_keys)
        pe_scores = self._scores(queries, self._final_key_pe)
        first, second = (self._fold(own, output) for own, output in zip(both_values, self._outputs2, strict=True))
        vectors = torch.cat([first, second + self._low_rank.bias / H], dim=1)  # V2, (N, 2 R, C)
        C = vectors.shape[2]
        # The Gram matrix of V2 is symmetric: the block below its diagonal is counted by the one above it, twice.
        gram1 = torch.cat([first @ first.mT, 2 * first @ vectors[:, R:].mT], dim=2) / C  # (N, R, 2 R)
        gram2 = vectors[:, R:] @ vectors[:, R:].mT / C  # (N, R, R)
        key_vectors = self._fold(keys, self._query) @ self._fold(state.values, self._output1_normed).mT
        vectors = vectors * self._low_rank.second_weight  # V3
        query_vectors = self._fold(queries, self._final_key) @ vectors.mT  # (N, H * Q, 2 R)
        own_values = (vectors @ self._low_rank.final_value.T).view(N, 2 * R, H, -1).transpose(1, 2)  # (N, H, 2 R, D)
        rstd2, attended = torch.empty_like(state.rstd1), torch.empty_like(queries)
        for n in range(N):
            w, r1 = coefficients[n], state.rstd1[n]
            scores = _product(key_vectors[n], w[:R])
            scores.view(H, T, K).addcmul_(shared_scores2[:, n], r1).add_(pe_scores2[:, n])
            w[R:] = scores.view(H, T, K).softmax(dim=1).flatten(0, 1)  # A2
            own_square = torch.zeros_like(r1)
            products = _product(gram1[n], w), _product(gram2[n], w[R:])
            for product, own, cross in zip(products, w.view(2, R, K), crosses, strict=True):
                product.view(H, T, K).addcmul_(cross[:, n], r1)
                own_square += product.mul_(own).sum(dim=0)
            variance = own_square + r1 * (r1 * shared.squares.second + shared.squares.cross_bias)
            r2 = rstd2[n] = _rstd(variance, self._low_rank.eps[1])
            scores = _product(query_vectors[n], w)
            scores.view(H, Q, K).addcmul_(shared_scores[:, n], r1).mul_(r2).add_(pe_scores[:, n])
            attended[n] = self._attend(scores, w, r1, shared.final_values, own_values[n], self._final_value_bias, r2)
        return _BothLayers(shared, coefficients, (state.rstd1, rstd2), vectors), attended

    def upscale(
        self, state: _BothLayers, hyper_in: Tensor, keep_mask: Tensor, size: tuple[int, int], num_rows: int
    ) -> Tensor:
        """See `ImageSide`."""
        low_res_masks = hyper_in.new_empty(int(keep_mask.sum()), 4 * num_rows, 4 * size[1])
        last = 0
        for n in keep_mask.any(dim=1).nonzero().flatten().tolist():
            first, last = last, last + int(keep_mask[n].sum())
            self._upscale(state, n, hyper_in[n][keep_mask[n]], size[1], low_res_masks[first:last])
        return low_res_masks

    def _upscale(self, state: _BothLayers, n: int, hyper_in: Tensor, w: int, low_res_masks: Tensor) -> None:
        """Mask logits of one prompt, (masks, 4 * rows, 4 * w), from hyper_in (masks, C / 8)."""
        norm, (rstd1, rstd2) = self._up_norm, (rstd[n] for rstd in state.rstds)
        channels = len(norm.weight)
        vectors = (state.vectors[n] @ self._low_rank.up1).T.contiguous()  # (4 * C / 4, 2 R)
        num_tokens, up1_bias = low_res_masks.shape[1] // 4 * w, self._low_rank.up1_bias.numpy()
        for first in range(0, num_tokens, _TILE):
            coefficients = state.coefficients[n, :, first : min(first + _TILE, num_tokens)].contiguous()
            fine = _product(vectors, coefficients)
            upscale_once(
                fine.numpy(), first, state.shared.fine.numpy(), rstd1.numpy(), rstd2.numpy(), up1_bias,
                norm.weight.detach().numpy(), norm.bias.detach().numpy(), np.float32(norm.eps),
            )  # fmt: skip
            for quarter in range(4):
                finest = _product(self._up2, fine[quarter * channels : (quarter + 1) * channels])
                mask_logits(
                    finest.numpy(), first, quarter, self._up2_bias.numpy(), hyper_in.numpy(), w, low_res_masks.numpy()
                )

    def _attend(
        self,
        scores: Tensor,
        coefficients: Tensor,
        r1: Tensor,
        shared_values: Tensor,
        own_values: Tensor,
        value_bias: Tensor,
        r2: Tensor | None = None,
    ) -> Tensor:
        """Attended values of the image tokens of one prompt.

        Args:
            scores: of Q tokens in each head, (H * Q, K).
            coefficients: of the vectors in each image token, before the factor r2, (rows, K).
            r1: factor of the shared values, (K,).
            shared_values: (H, K, D).
            own_values: values of the vectors, (H, rows, D).
            value_bias: the same for all image tokens, (H, 1, D).
            r2: factor of both, (K,); None after the first layer.

        Returns:
            (Q, H * D).
        """
        attention = scores.softmax(dim=1)
        if r2 is not None:
            attention *= r2
        own_weights = linear(attention, coefficients).view(self._num_heads, -1, len(coefficients))  # (H, Q, rows)
        shared_weights = (attention * r1).view(self._num_heads, -1, len(r1))
        attended = torch.bmm(shared_weights, shared_values) + torch.bmm(own_weights, own_values) + value_bias
        return attended.transpose(0, 1).flatten(1)

    def _scores(self, x: Tensor, columns: Tensor) -> Tensor:
        """Products within the heads of x (N, T, H * D) with columns (H, D, K): (H, N, T, K)."""
        N, T, _ = x.shape
        heads = x.view(N * T, self._num_heads, -1).transpose(0, 1)
        return torch.bmm(heads, columns).view(self._num_heads, N, T, -1)

    def _fold(self, x: Tensor, weight: Tensor) -> Tensor:
        """X (N, T, H * D) times a matrix of each head (H, D, C): (N, H * T, C)."""
        by_head = x.view(*x.shape[:2], self._num_heads, -1)
        return torch.einsum("nthd,hdc->nhtc", by_head, weight).flatten(1, 2)

    def _columns(self, x: Tensor) -> Tensor:
        """(K, H * D) → (H, D, K)."""
        return x.view(len(x), self._num_heads, -1).permute(1, 2, 0).contiguous()

    def _by_head(self, matrix: Tensor) -> Tensor:
        """(H * D, C) → (H, D, C)."""
        return matrix.view(self._num_heads, -1, matrix.shape[1])


def _rstd(variance: Tensor, eps: float) -> Tensor:
    """Reciprocal standard deviation. Rounding may make a variance near zero negative."""
    return (variance.clamp(min=0) + eps).rsqrt()


def _product(a: Tensor, b: Tensor) -> Tensor:
    """A @ b by the faster of the products, see `linear`."""
    return linear(a, b.T)
