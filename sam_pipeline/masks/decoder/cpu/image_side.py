"""The image side on a CPU: the image tokens of a prompt are never computed, see `low_rank`.

Scores, averages and variances are computed from factors. docs/decoder.md, "Low rank", derives it; comments here use its
symbols. torch multiplies the small matrices of the tokens. numba kernels do all that has a number for each image token,
strip by strip.

Legend: N prompts, T tokens a prompt, Q of them that the output heads read, H heads, D channels a head, R = H * T, C
channels, K image tokens, S image tokens a strip, h w rows and columns of the image embedding, M masks a prompt. T' is T
with zeros to a multiple of ROWS, and D' is D with zeros to one of LANES.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sam_pipeline.masks.decoder.cpu.attention import STRIP, Attended, Tokens, weigh_first, weigh_second
from sam_pipeline.masks.decoder.cpu.products import LANES, ROWS, Floats
from sam_pipeline.masks.decoder.cpu.upscaling import upscale
from sam_pipeline.masks.decoder.image_side import ImageSideWeights, SharedTokens, score_root
from sam_pipeline.masks.decoder.low_rank import LowRankWeights, centred


@dataclass(frozen=True)
class _SharedStrips:
    """What all prompts of an image share, in strips of image tokens; zeros behind the last token."""

    num_tokens: int
    """K."""
    first: Floats
    """Image queries of the first layer, `cross1`, keys of Z1 and of the positions, (strips, 4, H, D, S)."""
    values: Floats
    """Of Z1, (strips, H, S, D')."""
    first_square: Floats
    """(strips, S)."""
    second: Floats
    """Queries of Z1 and of the positions, both of `cross2`, keys of Z3 and of the positions, (strips, 6, H, D, S)."""
    final_values: Floats
    """Of Z3, (strips, H, S, D')."""
    second_squares: Floats
    """`SharedSquares.second` and `cross_bias`, (strips, 2, S)."""
    fine: Floats
    """(strips, 4 * C / 4, S)."""


@dataclass(frozen=True)
class _FirstLayer:
    """Image tokens of N prompts after the first layer, as factors."""

    shared: _SharedStrips
    coefficients: Floats
    """r1 A1, then room for A2, (N, strips, 2 * R, S)."""
    rstd1: Floats
    """(N, strips, S)."""
    values: Tensor
    """Of the tokens in the first layer, (N, T, H * D)."""


@dataclass(frozen=True)
class _BothLayers:
    """Image tokens of N prompts after both layers, as factors."""

    shared: _SharedStrips
    coefficients: Floats
    """r1 A1, then A2, (N, strips, 2 * R, S)."""
    rstds: tuple[Floats, Floats]
    """r1 and r2, reciprocal standard deviations of the norms, (N, strips, S) each."""
    vectors: Tensor
    """V3, (N, 2 * R, C)."""


class LowRankImageSide:
    """See `ImageSide`; in float32, on a CPU.

    Args:
        weights: of the image side.
    """

    prompts_at_once = 8
    """They share what is read of an image; what each has of its own stays in the second-level cache."""
    max_tokens: float = 24
    """R = 192: the products of R x R cost less than those of C x C only while R is below C = 256."""

    @staticmethod
    def takes(weights: ImageSideWeights) -> bool:
        """Whether all rows come in multiples of ROWS, and the last channels, C / 8, in pairs: those of SAM do."""
        C = len(weights.up1[0])
        return weights.num_heads % ROWS == 0 and C % (2 * ROWS) == 0 and C % 16 == 0

    def __init__(self, weights: ImageSideWeights) -> None:
        self._num_heads = weights.num_heads
        self._low_rank = low_rank = LowRankWeights(weights)
        # Scores are divided by the root of D, and are logarithms with base 2 in the kernels.
        self._scales = [1 / (math.log(2) * score_root(attn)) for attn in weights.attentions]
        self._output1, self._output1_normed = self._by_head(low_rank.output1), self._by_head(low_rank.output1_normed)
        self._outputs2 = [self._by_head(output) for output in low_rank.outputs2]
        self._query, self._key, self._final_key = (
            self._by_head(matrix) for matrix in (low_rank.query, low_rank.key, low_rank.final_key)
        )
        self._value_bias, self._final_value_bias = (
            bias.view(self._num_heads, 1, -1) for bias in (low_rank.value_bias, low_rank.final_value_bias)
        )
        self._up1, self._up1_bias = _centred_pixels(low_rank.up1), _centred_pixels(low_rank.up1_bias)
        up2, self._up2_bias = weights.up2
        self._up2, self._up_norm = up2.T.contiguous(), weights.up_norm

    def share(self, tokens: SharedTokens) -> _SharedStrips:
        """See `ImageSide`."""
        low_rank = self._low_rank
        rows, squares = low_rank.share(tokens, torch.float32)
        image_queries = tokens.image_queries.transpose(0, 1).flatten(1)
        second = (rows.queries, low_rank.query_pe, rows.cross21, rows.cross22, rows.final_keys, low_rank.final_key_pe)
        return _SharedStrips(
            num_tokens=len(rows.fine),
            first=self._columns(image_queries, rows.cross1, rows.keys, low_rank.key_pe),
            values=self._values(rows.values),
            first_square=_strips(squares.first[:, None])[:, 0].numpy(),
            second=self._columns(*second),
            final_values=self._values(rows.final_values),
            second_squares=_strips(torch.stack([squares.second, squares.cross_bias], dim=1)).numpy(),
            fine=_strips(_centred_pixels(rows.fine)).numpy(),
        )

    def update_first(
        self, shared: _SharedStrips, keys: Tensor, values: Tensor, queries: Tensor
    ) -> tuple[_FirstLayer, Tensor]:
        """See `ImageSide`."""
        N, T = keys.shape[:2]
        R = self._num_heads * T
        keys, queries = keys * self._scales[0], queries * self._scales[1]
        centred_vectors, vectors = self._fold(values, self._output1), self._fold(values, self._output1_normed)
        gram = centred_vectors @ centred_vectors.mT / vectors.shape[2]  # (N, R, R)
        query_vectors = self._fold(queries, self._key) @ vectors.mT  # (N, R, R)
        coefficients = np.empty((N, len(shared.first), 2 * R, STRIP), np.float32)
        rstd1 = np.empty((N, len(shared.first), STRIP), np.float32)
        sums = self._nothing_attended(N, T, R, shared.values)
        weigh_first(
            Tokens(self._padded(keys), self._padded(values), self._padded(queries)),
            gram.numpy(),
            query_vectors.numpy(),
            shared.first,
            shared.values,
            shared.first_square,
            np.float32(self._low_rank.eps[0]),
            shared.num_tokens,
            T,
            coefficients,
            rstd1,
            sums,
        )
        attended = self._attended(sums, T, vectors, self._low_rank.value, self._value_bias)
        return _FirstLayer(shared, coefficients, rstd1, values), attended

    def update_second(
        self, state: _FirstLayer, keys: Tensor, values: Tensor, queries: Tensor
    ) -> tuple[_BothLayers, Tensor]:
        """See `ImageSide`."""
        shared = state.shared
        N, T, H, Q = *keys.shape[:2], self._num_heads, queries.shape[1]
        R = H * T
        keys, queries = keys * self._scales[2], queries * self._scales[3]
        first, second = self._fold(state.values, self._outputs2[0]), self._fold(values, self._outputs2[1])
        vectors = torch.cat([first, second + self._low_rank.bias / H], dim=1)  # V2, (N, 2 R, C)
        C = vectors.shape[2]
        # The Gram matrix of V2 is symmetric: the block below its diagonal is counted by the one above it, twice.
        gram1 = torch.cat([first @ first.mT, 2 * first @ vectors[:, R:].mT], dim=2) / C  # (N, R, 2 R)
        gram2 = vectors[:, R:] @ vectors[:, R:].mT / C  # (N, R, R)
        key_vectors = self._fold(keys, self._query) @ self._fold(state.values, self._output1_normed).mT
        vectors = vectors * self._low_rank.second_weight  # V3
        query_vectors = self._fold(queries, self._final_key) @ vectors.mT  # (N, H * Q, 2 R)
        rstd2 = np.empty_like(state.rstd1)
        sums = self._nothing_attended(N, Q, 2 * R, shared.final_values)
        both_values = np.stack([self._padded(state.values), self._padded(values)], axis=1)
        weigh_second(
            Tokens(self._padded(keys), both_values, self._padded(queries)),
            key_vectors.numpy(),
            gram1.numpy(),
            gram2.numpy(),
            query_vectors.numpy(),
            shared.second,
            shared.final_values,
            shared.second_squares,
            np.float32(self._low_rank.eps[1]),
            shared.num_tokens,
            T,
            state.coefficients,
            state.rstd1,
            rstd2,
            sums,
        )
        attended = self._attended(sums, Q, vectors, self._low_rank.final_value, self._final_value_bias)
        return _BothLayers(shared, state.coefficients, (state.rstd1, rstd2), vectors), attended

    def upscale(
        self, state: _BothLayers, hyper_in: Tensor, keep_mask: Tensor, size: tuple[int, int], num_rows: int
    ) -> Tensor:
        """See `ImageSide`."""
        low_res_masks = hyper_in.new_empty(int(keep_mask.sum()), 4 * num_rows, 4 * size[1])
        norm, last = self._up_norm, 0
        for n in keep_mask.any(dim=1).nonzero().flatten().tolist():
            first, last = last, last + int(keep_mask[n].sum())
            upscale(
                (state.vectors[n] @ self._up1).T.contiguous().numpy(),
                state.coefficients[n],
                state.rstds[0][n],
                state.rstds[1][n],
                state.shared.fine,
                self._up1_bias.numpy(),
                norm.weight.detach().numpy(),
                norm.bias.detach().numpy(),
                np.float32(norm.eps),
                self._up2.numpy(),
                self._up2_bias.numpy(),
                hyper_in[n][keep_mask[n]].numpy(),
                size[1],
                low_res_masks[first:last].numpy(),
            )
        return low_res_masks

    def _nothing_attended(self, N: int, Q: int, rows: int, image_values: Floats) -> Attended:
        """Sums before the first strip, for Q queries a head and `rows` rows of coefficients."""
        H = self._num_heads
        return Attended(
            maxima=np.full((N, H * Q), -np.inf, np.float32),
            sums=np.zeros((N, H * Q), np.float32),
            own=np.zeros((N, rows, _up(H * Q, LANES)), np.float32),
            common=np.zeros((N, H, _up(Q, ROWS), image_values.shape[3]), np.float32),
        )

    def _attended(self, sums: Attended, Q: int, vectors: Tensor, value: Tensor, value_bias: Tensor) -> Tensor:
        """Attended values of the image tokens.

        Args:
            sums: over all strips.
            Q: queries a head.
            vectors: of which the coefficients are, (N, rows, C).
            value: their projection, (H * D, C).
            value_bias: the same for all image tokens, (H, 1, D).

        Returns:
            (N, Q, H * D).
        """
        N, rows, _ = vectors.shape
        H, D = self._num_heads, value_bias.shape[2]
        total, own, common = (torch.from_numpy(x) for x in (sums.sums, sums.own, sums.common))
        own_weights = own[..., : H * Q].view(N, rows, H, Q).permute(0, 2, 3, 1)
        own_values = (vectors @ value.T).view(N, rows, H, D).transpose(1, 2)
        undivided = common[:, :, :Q, :D] + own_weights @ own_values  # (N, H, Q, D)
        attended = undivided / total.view(N, H, Q, 1) + value_bias
        return attended.transpose(1, 2).flatten(2)

    def _padded(self, x: Tensor) -> Floats:
        """(N, T, H * D) → (N, H, T', D)."""
        N, T, _ = x.shape
        by_head = x.view(N, T, self._num_heads, -1).transpose(1, 2)
        return F.pad(by_head, (0, 0, 0, _up(T, ROWS) - T)).contiguous().numpy()

    def _fold(self, x: Tensor, weight: Tensor) -> Tensor:
        """X (N, T, H * D) times a matrix of each head (H, D, C): (N, H * T, C)."""
        by_head = x.view(*x.shape[:2], self._num_heads, -1)
        return torch.einsum("nthd,hdc->nhtc", by_head, weight).flatten(1, 2)

    def _columns(self, *rows: Tensor) -> Floats:
        """(K, H * D) each → (strips, how many, H, D, S)."""
        strips = _strips(torch.cat(rows, dim=1))
        return strips.view(len(strips), len(rows), self._num_heads, -1, STRIP).numpy()

    def _values(self, rows: Tensor) -> Floats:
        """(K, H * D) → (strips, H, S, D')."""
        by_head = _strips(rows).view(-1, self._num_heads, rows.shape[1] // self._num_heads, STRIP).transpose(2, 3)
        return F.pad(by_head, (0, _up(by_head.shape[3], LANES) - by_head.shape[3])).contiguous().numpy()

    def _by_head(self, matrix: Tensor) -> Tensor:
        """(H * D, C) → (H, D, C)."""
        return matrix.view(self._num_heads, -1, matrix.shape[1])


def _strips(rows: Tensor) -> Tensor:
    """(K, columns) → (strips, columns, S), with zeros behind the last token."""
    padded = F.pad(rows, (0, 0, 0, _up(len(rows), STRIP) - len(rows)))
    return padded.view(-1, STRIP, rows.shape[1]).transpose(1, 2).contiguous()


def _centred_pixels(fine: Tensor) -> Tensor:
    """Without the mean of the channels of each of four pixels, (..., 4 * channels), which the norm would subtract."""
    return centred(fine.view(*fine.shape[:-1], 4, -1)).flatten(-2)


def _up(number: int, multiple: int) -> int:
    """The smallest multiple that is not below the number."""
    return -(-number // multiple) * multiple
