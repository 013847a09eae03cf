"""The kernels of the attentions between image tokens and tokens. docs/decoder.md, "Low rank", has the algebra.

In tiles image tokens are rows. Operands of a prompt: see `folding`. Further legend: see `image_side`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from sam_pipeline.masks.decoder.gpu.matrices import add_product, load_matrix, load_tile, product


@triton.jit
def weigh_first(
    image_queries: tl.tensor,  # (H, K, D)
    cross: tl.tensor,  # (K, H * D) of rows that are `stride` apart
    stride: tl.tensor,
    mean_square: tl.tensor,  # (K,), `square_stride` apart
    square_stride: tl.tensor,
    eps: tl.tensor,
    key_rows: tl.tensor,  # these three: see FirstOperands
    value_rows: tl.tensor,
    gram: tl.tensor,
    attention: tl.tensor,  # out: A1, (N, K, R)
    rstd: tl.tensor,  # out: r1, (N, K)
    num_tokens: tl.tensor,
    tokens_a_program: tl.tensor,
    T: tl.constexpr,
    TP: tl.constexpr,
    H: tl.constexpr,
    D: tl.constexpr,
    TILE: tl.constexpr,
) -> None:
    """Compute the factors of the image tokens after the first layer."""
    n, split = tl.program_id(0), tl.program_id(1)
    R: tl.constexpr = H * TP
    HD: tl.constexpr = H * D
    own_keys, own_rows, own_gram = (
        load_matrix(key_rows, n, R, HD),
        load_matrix(value_rows, n, R, HD),
        load_matrix(gram, n, R, R),
    )
    start = split * tokens_a_program
    for first in range(start, tl.minimum(start + tokens_a_program, num_tokens), TILE):
        tokens = first + tl.arange(0, TILE)
        real = tokens < num_tokens
        places = n.to(tl.int64) * num_tokens + tokens
        channel = tl.arange(0, HD)
        by_head = image_queries + (channel // D * num_tokens * D + channel % D)[None, :] + tokens[:, None] * D
        queries = tl.load(by_head, mask=real[:, None], other=0.0)  # (TILE, HD)
        own = _softmax(product(queries, tl.trans(own_keys)), T, TP, H)
        own_half = own.to(own_keys.dtype)
        tl.store(attention + places[:, None] * R + tl.arange(0, R)[None, :], own_half, mask=real[:, None])
        products = product(load_tile(cross, tokens, real, stride, HD), tl.trans(own_rows))
        products = add_product(own_half, own_gram, products)
        variance = tl.sum(products * own, axis=1) + tl.load(mean_square + tokens * square_stride, mask=real, other=0.0)
        tl.store(rstd + places, _rstd(variance, eps), mask=real)


@triton.jit
def weigh_second(
    image_queries: tl.tensor,  # (K, H * D) of rows that are `stride` apart, as the next two
    cross1: tl.tensor,
    cross2: tl.tensor,
    stride: tl.tensor,
    query_pe: tl.tensor,  # (K, H * D)
    mean_square: tl.tensor,  # (K,), `square_stride` apart
    square_stride: tl.tensor,
    cross_bias: tl.tensor,  # (K,), `cross_stride` apart
    cross_stride: tl.tensor,
    eps: tl.tensor,
    first_value_rows: tl.tensor,  # (N, R, H * D)
    key_rows: tl.tensor,  # these six: see SecondOperands
    value_rows: tl.tensor,
    key_vectors: tl.tensor,
    gram11: tl.tensor,
    gram12: tl.tensor,
    gram22: tl.tensor,
    attention1: tl.tensor,  # A1, (N, K, R)
    rstd1: tl.tensor,  # r1, (N, K)
    attention2: tl.tensor,  # out: A2, (N, K, R)
    rstd2: tl.tensor,  # out: r2, (N, K)
    num_tokens: tl.tensor,
    tokens_a_program: tl.tensor,
    T: tl.constexpr,
    TP: tl.constexpr,
    H: tl.constexpr,
    D: tl.constexpr,
    TILE: tl.constexpr,
) -> None:
    """Compute the factors of the image tokens after the second layer."""
    n, split = tl.program_id(0), tl.program_id(1)
    R: tl.constexpr = H * TP
    HD: tl.constexpr = H * D
    first_rows, second_rows = load_matrix(first_value_rows, n, R, HD), load_matrix(value_rows, n, R, HD)
    own_keys, own_vectors = load_matrix(key_rows, n, R, HD), load_matrix(key_vectors, n, R, R)
    own_gram11, own_gram12, own_gram22 = (
        load_matrix(gram11, n, R, R),
        load_matrix(gram12, n, R, R),
        load_matrix(gram22, n, R, R),
    )
    start = split * tokens_a_program
    for first in range(start, tl.minimum(start + tokens_a_program, num_tokens), TILE):
        tokens = first + tl.arange(0, TILE)
        real = tokens < num_tokens
        places = n.to(tl.int64) * num_tokens + tokens
        rows = places[:, None] * R + tl.arange(0, R)[None, :]
        own1 = tl.load(attention1 + rows, mask=real[:, None], other=0.0)
        r1 = tl.load(rstd1 + places, mask=real, other=0.0)
        scores = product(load_tile(image_queries, tokens, real, stride, HD), tl.trans(own_keys))
        scores = add_product(own1, own_vectors, scores) * r1[:, None]
        own2 = _softmax(add_product(load_tile(query_pe, tokens, real, HD, HD), tl.trans(own_keys), scores), T, TP, H)
        own2_half = own2.to(own1.dtype)
        tl.store(attention2 + rows, own2_half, mask=real[:, None])

        products = product(load_tile(cross1, tokens, real, stride, HD), tl.trans(first_rows))
        products = add_product(own1, own_gram11, products)
        variance = tl.sum(products * own1.to(tl.float32), axis=1)
        variance += tl.load(mean_square + tokens * square_stride, mask=real, other=0.0)
        variance = variance * r1 + tl.load(cross_bias + tokens * cross_stride, mask=real, other=0.0)
        products = product(load_tile(cross2, tokens, real, stride, HD), tl.trans(second_rows))
        products = add_product(own1, own_gram12, products) * r1[:, None]
        products = add_product(own2_half, own_gram22, products)
        tl.store(rstd2 + places, _rstd(variance * r1 + tl.sum(products * own2, axis=1), eps), mask=real)


@triton.jit
def attend(
    image_keys: tl.tensor,  # (K, H * D) of rows that are `stride` apart, as the next
    image_values: tl.tensor,
    stride: tl.tensor,
    key_pe: tl.tensor,  # (K, H * D)
    value_bias: tl.tensor,  # (H * D,)
    query_rows: tl.tensor,  # (N, RQ, H * D)
    attention1: tl.tensor,  # A1, (N, K, R)
    rstd1: tl.tensor,  # r1, (N, K)
    scores1: tl.tensor,  # (N, R, RQ)
    own_values1: tl.tensor,  # (N, R, H * D)
    attention2: tl.tensor,  # as the last four, of the second layer; None after the first
    rstd2: tl.tensor,
    scores2: tl.tensor,
    own_values2: tl.tensor,
    attended: tl.tensor,  # out: (N, splits, Q, H * D)
    log_sum_exp: tl.tensor,  # out: (N, splits, RQ), of the scores of a split
    num_tokens: tl.tensor,
    tokens_a_program: tl.tensor,
    TP: tl.constexpr,
    Q: tl.constexpr,
    QP: tl.constexpr,
    H: tl.constexpr,
    D: tl.constexpr,
    TILE: tl.constexpr,
) -> None:
    """Attend from Q tokens of a prompt to its image tokens; RQ = H * QP."""
    n, split = tl.program_id(0), tl.program_id(1)
    R: tl.constexpr = H * TP
    RQ: tl.constexpr = H * QP
    HD: tl.constexpr = H * D
    own_queries, own_scores1 = load_matrix(query_rows, n, RQ, HD), load_matrix(scores1, n, R, RQ)
    if attention2 is not None:
        own_scores2 = load_matrix(scores2, n, R, RQ)
    # Online softmax, as in FlashAttention: sums are scaled down whenever a larger score turns up.
    largest = tl.full((RQ,), float("-inf"), tl.float32)
    total = tl.zeros((RQ,), tl.float32)
    sums1 = tl.zeros((R, RQ), tl.float32)
    sums2 = tl.zeros((R, RQ), tl.float32)
    value_sums = tl.zeros((HD, RQ), tl.float32)
    start = split * tokens_a_program
    for first in range(start, tl.minimum(start + tokens_a_program, num_tokens), TILE):
        tokens = first + tl.arange(0, TILE)
        real = tokens < num_tokens
        places = n.to(tl.int64) * num_tokens + tokens
        rows = places[:, None] * R + tl.arange(0, R)[None, :]
        own1 = tl.load(attention1 + rows, mask=real[:, None], other=0.0)
        factor = tl.load(rstd1 + places, mask=real, other=0.0)
        scores = product(load_tile(image_keys, tokens, real, stride, HD), tl.trans(own_queries))
        scores = add_product(own1, own_scores1, scores) * factor[:, None]
        if attention2 is not None:
            own2 = tl.load(attention2 + rows, mask=real[:, None], other=0.0)
            r2 = tl.load(rstd2 + places, mask=real, other=0.0)
            scores = add_product(own2, own_scores2, scores) * r2[:, None]
            factor *= r2
        scores = add_product(load_tile(key_pe, tokens, real, HD, HD), tl.trans(own_queries), scores)
        scores = tl.where(real[:, None], scores, float("-inf"))
        new_largest = tl.maximum(largest, tl.max(scores, axis=0))
        weights = tl.exp(scores - new_largest[None, :])
        shrink = tl.exp(largest - new_largest)
        total = total * shrink + tl.sum(weights, axis=0)
        if attention2 is not None:
            scaled = (weights * r2[:, None]).to(own1.dtype)
            sums2 = add_product(tl.trans(own2), scaled, sums2 * shrink[None, :])
        scaled = (weights * factor[:, None]).to(own1.dtype)
        sums1 = add_product(tl.trans(own1), scaled, sums1 * shrink[None, :])
        image_tile = load_tile(image_values, tokens, real, stride, HD)
        value_sums = add_product(tl.trans(image_tile), scaled, value_sums * shrink[None, :])
        largest = new_largest

    share = (1 / total)[None, :]
    sums = value_sums * share
    sums = add_product(tl.trans(load_matrix(own_values1, n, R, HD)), (sums1 * share).to(own_queries.dtype), sums)
    if attention2 is not None:
        sums = add_product(tl.trans(load_matrix(own_values2, n, R, HD)), (sums2 * share).to(own_queries.dtype), sums)
    row, channel = tl.arange(0, RQ), tl.arange(0, HD)
    place = n * tl.num_programs(1) + split
    tl.store(log_sum_exp + place * RQ + row, largest + tl.log(total))
    # Of each column only the channels of its head are asked for.
    own = (channel // D)[:, None] == (row // QP)[None, :]
    outputs = attended + ((place * Q + row % QP) * HD)[None, :] + channel[:, None]
    tl.store(outputs, sums + tl.load(value_bias + channel)[:, None], mask=own & (row % QP < Q)[None, :])


@triton.jit
def _softmax(scores: tl.tensor, T: tl.constexpr, TP: tl.constexpr, H: tl.constexpr) -> tl.tensor:
    """Attention weights of scores (TILE, R) over the T tokens of each head; zero for padding."""
    by_head = tl.reshape(scores, (scores.shape[0], H, TP))
    by_head = tl.where(tl.arange(0, TP)[None, None, :] < T, by_head, float("-inf"))
    weights = tl.exp(by_head - tl.max(by_head, axis=2, keep_dims=True))
    return tl.reshape(weights * (1 / tl.sum(weights, axis=2, keep_dims=True)), scores.shape)


@triton.jit
def _rstd(variance: tl.tensor, eps: tl.tensor) -> tl.tensor:
    """Reciprocal standard deviation. Rounding may make a variance near zero negative."""
    return tl.rsqrt(tl.maximum(variance, 0.0) + eps)
