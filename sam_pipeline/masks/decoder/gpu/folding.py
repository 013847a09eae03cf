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
import triton.language as tl
from torch import Tensor

from sam_pipeline.masks.decoder.gpu.matrices import device_of, load_matrix, product, store_columns, store_matrix
from sam_pipeline.masks.decoder.low_rank import LowRankWeights

_NUM_WARPS = 8


class FirstOperands(NamedTuple):
    """What `update_first` needs of the tokens of N prompts; R = H * TP, where TP is T up to a power of two.

    Rows are block-diagonal, (N, R, H * D).
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
    """What `update_second` needs of the tokens of N prompts, beside the value rows of the first layer."""

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
    """Each followed by how far apart prompts and tokens are: they may be parts of wider products."""
    assert all(x.stride(2) == 1 for x in projected), [x.stride() for x in projected]
    return [argument for x in projected for argument in (x, x.stride(0), x.stride(1))]


@triton.jit
def fold_first(
    keys: tl.tensor,  # (N, T, H * D), prompts and tokens by their strides, as the next two
    key_stride: tl.tensor,
    key_token_stride: tl.tensor,
    values: tl.tensor,
    value_stride: tl.tensor,
    value_token_stride: tl.tensor,
    queries: tl.tensor,
    query_stride: tl.tensor,
    query_token_stride: tl.tensor,
    key_root: tl.tensor,  # by which keys are divided
    query_root: tl.tensor,
    gram_weight: tl.tensor,  # (H * D, H * D), as the next two
    score_weight: tl.tensor,
    value_weight: tl.tensor,
    up_weight: tl.tensor,  # (H * D, C)
    key_rows: tl.tensor,  # these seven are out; see FirstOperands
    value_rows: tl.tensor,
    query_rows: tl.tensor,
    gram: tl.tensor,
    scores: tl.tensor,
    own_values: tl.tensor,
    vectors: tl.tensor,
    T: tl.constexpr,
    TP: tl.constexpr,
    H: tl.constexpr,
    D: tl.constexpr,
    C: tl.constexpr,
) -> None:
    """Compute what the first layer needs of a prompt's tokens."""
    n = tl.program_id(0)
    R: tl.constexpr = H * TP
    HD: tl.constexpr = H * D
    dtype: tl.constexpr = key_rows.dtype.element_ty
    keys += n.to(tl.int64) * key_stride
    values += n.to(tl.int64) * value_stride
    queries += n.to(tl.int64) * query_stride
    own_keys = _block_rows(keys, key_token_stride, key_root, T, TP, H, D, dtype)
    store_matrix(key_rows, n, own_keys, R, HD)
    rows = _block_rows(values, value_token_stride, 1.0, T, TP, H, D, dtype)
    store_matrix(value_rows, n, rows, R, HD)
    store_matrix(own_values, n, _project(rows, value_weight, HD, HD, HD), R, HD)
    # Halves, for which there are registers.
    for first in tl.static_range(0, C, C // 2):
        half = _project(rows, up_weight + first, HD, C // 2, C)
        store_columns(vectors, n, half, first, R, C)
    store_matrix(gram, n, product(_project(rows, gram_weight, HD, HD, HD), tl.trans(rows)), R, R)
    own_queries = _block_rows(queries, query_token_stride, query_root, T, TP, H, D, dtype)
    store_matrix(query_rows, n, own_queries, R, HD)
    store_matrix(scores, n, product(_project(rows, score_weight, HD, HD, HD), tl.trans(own_queries)), R, R)


@triton.jit
def fold_second(
    first_value_rows: tl.tensor,  # (N, R, H * D)
    keys: tl.tensor,  # (N, T, H * D), prompts and tokens by their strides, as the next two
    key_stride: tl.tensor,
    key_token_stride: tl.tensor,
    values: tl.tensor,
    value_stride: tl.tensor,
    value_token_stride: tl.tensor,
    queries: tl.tensor,  # (N, Q, H * D)
    query_stride: tl.tensor,
    query_token_stride: tl.tensor,
    key_root: tl.tensor,  # by which keys are divided
    query_root: tl.tensor,
    key_weight: tl.tensor,  # (H * D, H * D), as the next seven
    gram11_weight: tl.tensor,
    gram12_weight: tl.tensor,
    gram22_weight: tl.tensor,
    score1_weight: tl.tensor,
    score2_weight: tl.tensor,
    value1_weight: tl.tensor,
    value2_weight: tl.tensor,
    up_weight: tl.tensor,  # (H * D, C)
    gram12_bias: tl.tensor,  # (H * D,), as the next three
    gram22_bias: tl.tensor,
    score_bias: tl.tensor,
    value_bias: tl.tensor,
    up_bias: tl.tensor,  # (C,)
    square_bias: tl.tensor,  # ()
    key_rows: tl.tensor,  # these twelve are out; see SecondOperands
    value_rows: tl.tensor,
    query_rows: tl.tensor,
    key_vectors: tl.tensor,
    gram11: tl.tensor,
    gram12: tl.tensor,
    gram22: tl.tensor,
    scores1: tl.tensor,
    scores2: tl.tensor,
    own_values1: tl.tensor,
    own_values2: tl.tensor,
    vectors: tl.tensor,
    T: tl.constexpr,
    TP: tl.constexpr,
    Q: tl.constexpr,
    QP: tl.constexpr,
    H: tl.constexpr,
    D: tl.constexpr,
    C: tl.constexpr,
) -> None:
    """Compute what the second layer needs of a prompt's tokens, beside the value rows of the first."""
    n = tl.program_id(0)
    R: tl.constexpr = H * TP
    RQ: tl.constexpr = H * QP
    HD: tl.constexpr = H * D
    dtype: tl.constexpr = key_rows.dtype.element_ty
    keys += n.to(tl.int64) * key_stride
    values += n.to(tl.int64) * value_stride
    queries += n.to(tl.int64) * query_stride
    first = load_matrix(first_value_rows, n, R, HD)
    store_matrix(own_values1, n, _project(first, value1_weight, HD, HD, HD), R, HD)
    store_matrix(gram11, n, product(_project(first, gram11_weight, HD, HD, HD), tl.trans(first)), R, R)
    own_keys = _block_rows(keys, key_token_stride, key_root, T, TP, H, D, dtype)
    store_matrix(key_rows, n, own_keys, R, HD)
    store_matrix(key_vectors, n, product(_project(first, key_weight, HD, HD, HD), tl.trans(own_keys)), R, R)
    own_queries = _block_rows(queries, query_token_stride, query_root, Q, QP, H, D, dtype)
    store_matrix(query_rows, n, own_queries, RQ, HD)
    store_matrix(scores1, n, product(_project(first, score1_weight, HD, HD, HD), tl.trans(own_queries)), R, RQ)

    # Each vector of the second layer has 1 / H of the bias.
    second = _block_rows(values, value_token_stride, 1.0, T, TP, H, D, dtype)
    store_matrix(value_rows, n, second, R, HD)
    own_values = _project(second, value2_weight, HD, HD, HD) + tl.load(value_bias + tl.arange(0, HD))[None, :]
    store_matrix(own_values2, n, own_values, R, HD)
    for column in tl.static_range(0, C, C // 2):
        half = _project(second, up_weight + column, HD, C // 2, C)
        bias = tl.load(up_bias + column + tl.arange(0, C // 2))[None, :]
        store_columns(vectors, n, half + bias, column, R, C)
    matrix = product(_project(first, gram12_weight, HD, HD, HD), tl.trans(second))
    store_matrix(gram12, n, matrix + _times_vector(first, gram12_bias, HD)[:, None], R, R)
    matrix = product(_project(second, gram22_weight, HD, HD, HD), tl.trans(second))
    bias = _times_vector(second, gram22_bias, HD)
    store_matrix(gram22, n, matrix + bias[:, None] + bias[None, :] + tl.load(square_bias), R, R)
    matrix = product(_project(second, score2_weight, HD, HD, HD), tl.trans(own_queries))
    store_matrix(scores2, n, matrix + _times_vector(own_queries, score_bias, HD)[None, :], R, RQ)


@triton.jit
def _block_rows(
    pointer: tl.tensor,  # (T, H * D), tokens `stride` apart
    stride: tl.tensor,
    root: tl.tensor,
    T: tl.constexpr,
    TP: tl.constexpr,
    H: tl.constexpr,
    D: tl.constexpr,
    dtype: tl.constexpr,
) -> tl.tensor:
    """Projected tokens of a prompt over a root, block-diagonally: (H * TP, H * D)."""
    row, channel = tl.arange(0, H * TP), tl.arange(0, H * D)
    own = (row // TP)[:, None] == (channel // D)[None, :]
    offsets = (row % TP * stride)[:, None] + channel[None, :]
    return (tl.load(pointer + offsets, mask=own & (row % TP < T)[:, None], other=0.0) / root).to(dtype)


@triton.jit
def _project(
    rows: tl.tensor, weight: tl.tensor, IN: tl.constexpr, OUT: tl.constexpr, STRIDE: tl.constexpr
) -> tl.tensor:
    """Rows (R, IN) times a matrix (IN, OUT), of rows STRIDE apart, rounded as operands are."""
    weights = tl.load(weight + tl.arange(0, IN)[:, None] * STRIDE + tl.arange(0, OUT)[None, :])
    return product(rows, weights).to(rows.dtype)


@triton.jit
def _times_vector(rows: tl.tensor, vector: tl.tensor, WIDTH: tl.constexpr) -> tl.tensor:
    """Rows (R, WIDTH) times a vector (WIDTH,): (R,)."""
    return tl.sum(rows.to(tl.float32) * tl.load(vector + tl.arange(0, WIDTH))[None, :], axis=1)
