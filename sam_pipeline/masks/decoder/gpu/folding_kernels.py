"""The kernels of `folding`, which has the legend."""

from __future__ import annotations

import triton
import triton.language as tl

from sam_pipeline.masks.decoder.gpu.matrices import load_matrix, product, store_columns, store_matrix


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
    key_rows: tl.tensor,  # these seven are out; see `FirstOperands`
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
    key_rows: tl.tensor,  # these twelve are out; see `SecondOperands`
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
