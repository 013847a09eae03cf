"""What the kernels of the image side need of the tokens of a prompt: projections folded into matrices of theirs.

The T tokens in each of H heads are padded to TP, a power of two, as Triton's blocks are: R = H * TP. Keys, values and
queries are laid out block-diagonally, (R, H * D), zero outside their head, so that all heads are one product. Products
of two projections are matrices (H * D, H * D): between them there are C channels, which no kernel here needs to see.
docs/decoder.md, "Low rank", has the algebra. Further legend: see `image_side`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
from torch import Tensor

from sam_pipeline.masks.decoder.gpu.folding_kernels import fold_first, fold_second
from sam_pipeline.masks.decoder.gpu.matrices import device_of
from sam_pipeline.masks.decoder.low_rank import LowRankWeights

_NUM_WARPS = 8


class FirstOperands(NamedTuple):
    """What the kernels of the first layer need of the tokens of N prompts.

    R = H * TP, where TP is T up to a power of two. Rows are block-diagonal, (N, R, H * D).
    """

    key_rows: Tensor
    value_rows: Tensor
    query_rows: Tensor
    gram: Tensor
    """V V^T / C, (N, R, R)."""
    scores: Tensor
    """V1 W_k^T q^T, (N, R, R)."""
    own_values: Tensor
    """V1 W_v^T, (N, R, H * D)."""
    vectors: Tensor
    """First half of V3 W_up, (N, R, C)."""


class SecondOperands(NamedTuple):
    """What those of the second layer need of the tokens of N prompts, beside the value rows of the first layer."""

    key_rows: Tensor
    """(N, R, H * D), as the next."""
    value_rows: Tensor
    query_rows: Tensor
    """(N, H * QP, H * D)."""
    key_vectors: Tensor
    """V1 W_q^T k^T, (N, R, R)."""
    gram11: Tensor
    """Blocks of V2 V2^T / C, (N, R, R); the one off the diagonal twice."""
    gram12: Tensor
    gram22: Tensor
    scores1: Tensor
    """Both halves of V3 W_k^T q^T, (N, R, H * QP)."""
    scores2: Tensor
    own_values1: Tensor
    """Both halves of V3 W_v^T, (N, R, H * D)."""
    own_values2: Tensor
    vectors: Tensor
    """Second half of V3 W_up, (N, R, C)."""


class Folding:
    """Folds projections into the tokens of prompts.

    Args:
        low_rank: the decoder's weights.
        roots: by which scores are divided, of the image side's attentions in order.
        dtype: of operands.
    """

    def __init__(self, low_rank: LowRankWeights, roots: list[float], dtype: torch.dtype) -> None:
        self._num_heads, self._roots, self._dtype = low_rank.num_heads, roots, dtype
        self._num_channels = C = len(low_rank.bias)
        H = low_rank.num_heads
        first, second = low_rank.outputs2
        final_first, final_second = first * low_rank.second_weight, second * low_rank.second_weight
        bias, final_bias = low_rank.bias / H, low_rank.bias * low_rank.second_weight / H
        self._first_weights = [
            weight.to(dtype).contiguous()
            for weight in (
                low_rank.output1 @ low_rank.output1.T / C,
                low_rank.output1_normed @ low_rank.key.T,
                low_rank.output1_normed @ low_rank.value.T,
                final_first @ low_rank.up1,
            )
        ]
        self._second_weights = [
            weight.to(dtype).contiguous()
            for weight in (
                low_rank.output1_normed @ low_rank.query.T,
                first @ first.T / C,
                first @ second.T * (2 / C),
                second @ second.T / C,
                final_first @ low_rank.final_key.T,
                final_second @ low_rank.final_key.T,
                final_first @ low_rank.final_value.T,
                final_second @ low_rank.final_value.T,
                final_second @ low_rank.up1,
            )
        ]
        self._second_biases = [
            first @ bias * (2 / C),
            second @ bias / C,
            low_rank.final_key @ final_bias,
            low_rank.final_value @ final_bias,
            final_bias @ low_rank.up1,
            bias.square().mean(),
        ]

    def num_rows(self, num_tokens: int) -> int:
        """Rows of a prompt's tokens in all heads, padded."""
        padded: int = triton.next_power_of_2(num_tokens)
        return self._num_heads * padded

    def first(self, keys: Tensor, values: Tensor, queries: Tensor) -> FirstOperands:
        """Operands of the first layer; all (N, T, H * D)."""
        N, T, width = values.shape
        R = self.num_rows(T)
        rows, square = (N, R, width), (N, R, R)
        own = FirstOperands(*self._empty(values, rows, rows, rows, square, square, rows, (N, R, self._num_channels)))
        with device_of(values):
            fold_first[(N,)](
                *_with_strides(keys, values, queries), *self._roots[:2], *self._first_weights, *own,
                **self._shapes(values), num_warps=_NUM_WARPS,
            )  # fmt: skip
        return own

    def second(self, first_value_rows: Tensor, keys: Tensor, values: Tensor, queries: Tensor) -> SecondOperands:
        """Operands of the second layer.

        Args:
            first_value_rows: of the first layer.
            keys: (N, T, H * D).
            values: (N, T, H * D).
            queries: (N, Q, H * D).
        """
        (N, T, width), Q = values.shape, queries.shape[1]
        R, RQ = self.num_rows(T), self.num_rows(Q)
        rows, query_rows, square, scores = (N, R, width), (N, RQ, width), (N, R, R), (N, R, RQ)
        own = SecondOperands(
            *self._empty(
                values,
                rows,
                rows,
                query_rows,
                square,
                square,
                square,
                square,
                scores,
                scores,
                rows,
                rows,
                (N, R, self._num_channels),
            )
        )
        with device_of(values):
            fold_second[(N,)](
                first_value_rows, *_with_strides(keys, values, queries), *self._roots[2:],
                *self._second_weights, *self._second_biases, *own,
                **self._shapes(values), Q=Q, QP=RQ // self._num_heads, num_warps=_NUM_WARPS,
            )  # fmt: skip
        return own

    def _shapes(self, values: Tensor) -> dict[str, int]:
        T, H = values.shape[1], self._num_heads
        return {"T": T, "TP": self.num_rows(T) // H, "H": H, "D": values.shape[2] // H, "C": self._num_channels}

    def _empty(self, like: Tensor, *shapes: tuple[int, ...]) -> list[Tensor]:
        return [like.new_empty(shape, dtype=self._dtype) for shape in shapes]


def _with_strides(*projected: Tensor) -> list[Tensor | int]:
    """Each tensor followed by its strides over prompts and tokens: it may be a slice of a wider product."""
    assert all(x.stride(2) == 1 for x in projected), [x.stride() for x in projected]
    return [argument for x in projected for argument in (x, x.stride(0), x.stride(1))]
