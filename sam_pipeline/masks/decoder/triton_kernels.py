"""The kernels of `triton_image_side`, which says how their work is divided. docs/decoder.md, "Low rank", has the algebra.

In tiles image tokens are rows. The T tokens in each of H heads are padded to TP, a power of two, as Triton's blocks
are: R = H * TP below. Keys, values and queries of a prompt are laid out block-diagonally, (R, H * D), zero outside their
head, so that all heads are one product. Further legend: see `low_rank`.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def fold_first(
    keys: tl.tensor,  # (N, T, H * D), as the next two
    values: tl.tensor,
    queries: tl.tensor,
    gram_weight: tl.tensor,  # (H * D, H * D), as the next two
    score_weight: tl.tensor,
    value_weight: tl.tensor,
    key_rows: tl.tensor,  # these six are out; see FirstOperands
    value_rows: tl.tensor,
    query_rows: tl.tensor,
    gram: tl.tensor,
    vector_scores: tl.tensor,
    own_values: tl.tensor,
    T: tl.constexpr,
    TP: tl.constexpr,
    H: tl.constexpr,
    D: tl.constexpr,
) -> None:
    """Compute what the first layer needs of a prompt's tokens."""
    n = tl.program_id(0)
    R: tl.constexpr = H * TP
    HD: tl.constexpr = H * D
    dtype: tl.constexpr = key_rows.dtype.element_ty
    _store(key_rows, n, _block_rows(keys, n, T, TP, H, D, dtype), R, HD)
    rows = _block_rows(values, n, T, TP, H, D, dtype)
    _store(value_rows, n, rows, R, HD)
    _store(own_values, n, _project(rows, value_weight, HD), R, HD)
    _store(gram, n, _product(_project(rows, gram_weight, HD), tl.trans(rows)), R, R)
    own_queries = _block_rows(queries, n, T, TP, H, D, dtype)
    _store(query_rows, n, own_queries, R, HD)
    _store(vector_scores, n, _product(_project(rows, score_weight, HD), tl.trans(own_queries)), R, R)


@triton.jit
def fold_second(
    first_value_rows: tl.tensor,  # (N, R, H * D)
    keys: tl.tensor,  # (N, T, H * D)
    values: tl.tensor,  # (N, T, H * D)
    queries: tl.tensor,  # (N, Q, H * D)
    key_weight: tl.tensor,  # (H * D, H * D), as the next seven
    gram11_weight: tl.tensor,
    gram12_weight: tl.tensor,
    gram22_weight: tl.tensor,
    score1_weight: tl.tensor,
    score2_weight: tl.tensor,
    value1_weight: tl.tensor,
    value2_weight: tl.tensor,
    gram12_bias: tl.tensor,  # (H * D,), as the next three
    gram22_bias: tl.tensor,
    score_bias: tl.tensor,
    value_bias: tl.tensor,
    square_bias: tl.tensor,  # ()
    key_rows: tl.tensor,  # these eleven are out; see SecondOperands
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
    T: tl.constexpr,
    TP: tl.constexpr,
    Q: tl.constexpr,
    QP: tl.constexpr,
    H: tl.constexpr,
    D: tl.constexpr,
) -> None:
    """Compute what the second layer needs of a prompt's tokens, beside the value rows of the first."""
    n = tl.program_id(0)
    R: tl.constexpr = H * TP
    RQ: tl.constexpr = H * QP
    HD: tl.constexpr = H * D
    dtype: tl.constexpr = key_rows.dtype.element_ty
    first = _load(first_value_rows, n, R, HD)
    _store(own_values1, n, _project(first, value1_weight, HD), R, HD)
    _store(gram11, n, _product(_project(first, gram11_weight, HD), tl.trans(first)), R, R)
    own_keys = _block_rows(keys, n, T, TP, H, D, dtype)
    _store(key_rows, n, own_keys, R, HD)
    _store(key_vectors, n, _product(_project(first, key_weight, HD), tl.trans(own_keys)), R, R)
    own_queries = _block_rows(queries, n, Q, QP, H, D, dtype)
    _store(query_rows, n, own_queries, RQ, HD)
    _store(scores1, n, _product(_project(first, score1_weight, HD), tl.trans(own_queries)), R, RQ)

    # Each vector of the second layer has 1 / H of the bias.
    second = _block_rows(values, n, T, TP, H, D, dtype)
    _store(value_rows, n, second, R, HD)
    own_values = _project(second, value2_weight, HD) + tl.load(value_bias + tl.arange(0, HD))[None, :]
    _store(own_values2, n, own_values, R, HD)
    matrix = _product(_project(first, gram12_weight, HD), tl.trans(second))
    _store(gram12, n, matrix + _times_vector(first, gram12_bias, HD)[:, None], R, R)
    matrix = _product(_project(second, gram22_weight, HD), tl.trans(second))
    bias = _times_vector(second, gram22_bias, HD)
    _store(gram22, n, matrix + bias[:, None] + bias[None, :] + tl.load(square_bias), R, R)
    matrix = _product(_project(second, score2_weight, HD), tl.trans(own_queries))
    _store(scores2, n, matrix + _times_vector(own_queries, score_bias, HD)[None, :], R, RQ)


@triton.jit
def weigh_first(
    image_queries: tl.tensor,  # (K, H * D)
    cross: tl.tensor,  # (K, H * D) of rows that are `stride` apart
    stride: tl.tensor,
    mean_square: tl.tensor,  # (K,)
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
    own_keys, own_rows, own_gram = _load(key_rows, n, R, HD), _load(value_rows, n, R, HD), _load(gram, n, R, R)
    start = split * tokens_a_program
    for first in range(start, tl.minimum(start + tokens_a_program, num_tokens), TILE):
        tokens = first + tl.arange(0, TILE)
        real = tokens < num_tokens
        places = n.to(tl.int64) * num_tokens + tokens
        own = _softmax(_product(_tile(image_queries, tokens, real, HD, HD), tl.trans(own_keys)), T, TP, H)
        own_half = own.to(own_keys.dtype)
        tl.store(attention + places[:, None] * R + tl.arange(0, R)[None, :], own_half, mask=real[:, None])
        products = _product(_tile(cross, tokens, real, stride, HD), tl.trans(own_rows))
        products = _add_product(own_half, own_gram, products)
        variance = tl.sum(products * own, axis=1) + tl.load(mean_square + tokens, mask=real, other=0.0)
        tl.store(rstd + places, _rstd(variance, eps), mask=real)


@triton.jit
def weigh_second(
    image_queries: tl.tensor,  # (K, H * D) of rows that are `stride` apart, as the next two
    cross1: tl.tensor,
    cross2: tl.tensor,
    stride: tl.tensor,
    query_pe: tl.tensor,  # (K, H * D)
    mean_square: tl.tensor,  # (K,)
    cross_bias: tl.tensor,  # (K,)
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
    first_rows, second_rows = _load(first_value_rows, n, R, HD), _load(value_rows, n, R, HD)
    own_keys, own_vectors = _load(key_rows, n, R, HD), _load(key_vectors, n, R, R)
    own_gram11, own_gram12, own_gram22 = _load(gram11, n, R, R), _load(gram12, n, R, R), _load(gram22, n, R, R)
    start = split * tokens_a_program
    for first in range(start, tl.minimum(start + tokens_a_program, num_tokens), TILE):
        tokens = first + tl.arange(0, TILE)
        real = tokens < num_tokens
        places = n.to(tl.int64) * num_tokens + tokens
        rows = places[:, None] * R + tl.arange(0, R)[None, :]
        own1 = tl.load(attention1 + rows, mask=real[:, None], other=0.0)
        r1 = tl.load(rstd1 + places, mask=real, other=0.0)
        scores = _product(_tile(image_queries, tokens, real, stride, HD), tl.trans(own_keys))
        scores = _add_product(own1, own_vectors, scores) * r1[:, None]
        own2 = _softmax(_add_product(_tile(query_pe, tokens, real, HD, HD), tl.trans(own_keys), scores), T, TP, H)
        own2_half = own2.to(own1.dtype)
        tl.store(attention2 + rows, own2_half, mask=real[:, None])

        products = _product(_tile(cross1, tokens, real, stride, HD), tl.trans(first_rows))
        products = _add_product(own1, own_gram11, products)
        variance = tl.sum(products * own1.to(tl.float32), axis=1) + tl.load(mean_square + tokens, mask=real, other=0.0)
        variance = variance * r1 + tl.load(cross_bias + tokens, mask=real, other=0.0)
        products = _product(_tile(cross2, tokens, real, stride, HD), tl.trans(second_rows))
        products = _add_product(own1, own_gram12, products) * r1[:, None]
        products = _add_product(own2_half, own_gram22, products)
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
    own_queries, own_scores1 = _load(query_rows, n, RQ, HD), _load(scores1, n, R, RQ)
    if attention2 is not None:
        own_scores2 = _load(scores2, n, R, RQ)
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
        scores = _product(_tile(image_keys, tokens, real, stride, HD), tl.trans(own_queries))
        scores = _add_product(own1, own_scores1, scores) * factor[:, None]
        if attention2 is not None:
            own2 = tl.load(attention2 + rows, mask=real[:, None], other=0.0)
            r2 = tl.load(rstd2 + places, mask=real, other=0.0)
            scores = _add_product(own2, own_scores2, scores) * r2[:, None]
            factor *= r2
        scores = _add_product(_tile(key_pe, tokens, real, HD, HD), tl.trans(own_queries), scores)
        scores = tl.where(real[:, None], scores, float("-inf"))
        new_largest = tl.maximum(largest, tl.max(scores, axis=0))
        weights = tl.exp(scores - new_largest[None, :])
        shrink = tl.exp(largest - new_largest)
        total = total * shrink + tl.sum(weights, axis=0)
        if attention2 is not None:
            scaled = (weights * r2[:, None]).to(own1.dtype)
            sums2 = _add_product(tl.trans(own2), scaled, sums2 * shrink[None, :])
        scaled = (weights * factor[:, None]).to(own1.dtype)
        sums1 = _add_product(tl.trans(own1), scaled, sums1 * shrink[None, :])
        image_tile = _tile(image_values, tokens, real, stride, HD)
        value_sums = _add_product(tl.trans(image_tile), scaled, value_sums * shrink[None, :])
        largest = new_largest

    share = (1 / total)[None, :]
    sums = value_sums * share
    sums = _add_product(tl.trans(_load(own_values1, n, R, HD)), (sums1 * share).to(own_queries.dtype), sums)
    if attention2 is not None:
        sums = _add_product(tl.trans(_load(own_values2, n, R, HD)), (sums2 * share).to(own_queries.dtype), sums)
    row, channel = tl.arange(0, RQ), tl.arange(0, HD)
    place = n * tl.num_programs(1) + split
    tl.store(log_sum_exp + place * RQ + row, largest + tl.log(total))
    # Of each column only the channels of its head are asked for.
    own = (channel // D)[:, None] == (row // QP)[None, :]
    outputs = attended + ((place * Q + row % QP) * HD)[None, :] + channel[:, None]
    tl.store(outputs, sums + tl.load(value_bias + channel)[:, None], mask=own & (row % QP < Q)[None, :])


@triton.jit
def upscale(
    attention1: tl.tensor,  # A1, (N, K, R)
    attention2: tl.tensor,  # A2, (N, K, R)
    rstd1: tl.tensor,  # r1, (N, K)
    rstd2: tl.tensor,  # r2, (N, K)
    shared: tl.tensor,  # (K, 4 * F) of rows that are `stride` apart
    stride: tl.tensor,
    vectors1: tl.tensor,  # (H, N, T, 4 * F)
    vectors2: tl.tensor,  # (H, N, T, 4 * F)
    vector_bias: tl.tensor,  # (4 * F,)
    up1_bias: tl.tensor,  # (4 * F,)
    up_weight: tl.tensor,  # (F,)
    up_bias: tl.tensor,  # (F,)
    up_eps: tl.tensor,
    up2: tl.tensor,  # (F, 4 * G)
    up2_bias: tl.tensor,  # (4 * G,)
    hyper_in: tl.tensor,  # (N, M, G)
    mask_indices: tl.tensor,  # (N, M) int32: index of a mask in the output, negative for none
    masks: tl.tensor,  # out: (masks, 4 * rows, 4 * w)
    num_prompts: tl.tensor,  # N
    num_tokens: tl.tensor,  # K
    num_upscaled: tl.tensor,  # rows * w
    w: tl.tensor,
    T: tl.constexpr,
    TP: tl.constexpr,
    H: tl.constexpr,
    M: tl.constexpr,
    F: tl.constexpr,
    G: tl.constexpr,
    MP: tl.constexpr,
    TILE: tl.constexpr,
) -> None:
    """Compute the mask logits of the 4 x 4 pixels of each token of a tile."""
    n = tl.program_id(0)
    # The hypernetwork's product is one for all masks and corners of a token: 4 G rows, 4 corners x MP masks.
    output = tl.arange(0, 4 * MP)
    corner, m = output // MP, output % MP
    mask_index = tl.load(mask_indices + n * M + m, mask=m < M, other=-1)
    if tl.max(mask_index, axis=0) < 0:
        return
    R: tl.constexpr = H * TP
    token = tl.program_id(1) * TILE + tl.arange(0, TILE)
    real = token < num_upscaled
    places = n.to(tl.int64) * num_tokens + token
    row = tl.arange(0, R)
    own1 = tl.load(attention1 + places[:, None] * R + row[None, :], mask=real[:, None], other=0.0)
    own2 = tl.load(attention2 + places[:, None] * R + row[None, :], mask=real[:, None], other=0.0)
    r1 = tl.load(rstd1 + places, mask=real, other=0.0)
    r2 = tl.load(rstd2 + places, mask=real, other=0.0)
    vector_rows = ((row // TP * num_prompts + n) * T + row % TP) * (4 * F)
    in_use = (row % TP < T)[:, None]
    fine_channels, finest_channels = tl.arange(0, F), tl.arange(0, 4 * G)
    to_finest = tl.load(up2 + fine_channels[:, None] * (4 * G) + finest_channels[None, :])
    own_rows = (finest_channels // G)[:, None] == corner[None, :]
    hyper_rows = hyper_in + (n * M + m)[None, :] * G + (finest_channels % G)[:, None]
    hyper = tl.load(hyper_rows, mask=own_rows & (m < M)[None, :], other=0.0)
    kept = real[:, None] & (mask_index >= 0)[None, :]
    corner_pixels = mask_index.to(tl.int64) * 16 * num_upscaled + corner // 2 * (4 * w) + corner % 2
    pixels = masks + corner_pixels[None, :] + (token // w * (16 * w) + token % w * 4)[:, None]  # (TILE, 4 * MP)
    # Next to products of 16 bits one of TF32, with three bits more than bfloat16, loses nothing.
    precision: tl.constexpr = "ieee" if own1.dtype == tl.float32 else "tf32"
    for quarter in range(4):  # of a token, by row and column
        columns = quarter * F + fine_channels
        own_vectors = tl.load(vectors1 + vector_rows[:, None] + columns[None, :], mask=in_use, other=0.0)
        fine = tl.load(shared + token[:, None] * stride + columns[None, :], mask=real[:, None], other=0.0).to(tl.float32)
        fine = _add_product(own1, own_vectors, fine) * r1[:, None] + tl.load(vector_bias + columns)[None, :]
        own_vectors = tl.load(vectors2 + vector_rows[:, None] + columns[None, :], mask=in_use, other=0.0)
        fine = _add_product(own2, own_vectors, fine) * r2[:, None] + tl.load(up1_bias + columns)[None, :]
        centred = fine - tl.sum(fine, axis=1, keep_dims=True) / F
        variance = tl.sum(centred * centred, axis=1, keep_dims=True) / F
        scale = tl.load(up_weight + fine_channels)[None, :] * tl.rsqrt(variance + up_eps)
        fine = _gelu(centred * scale + tl.load(up_bias + fine_channels)[None, :])
        finest = tl.dot(fine.to(own1.dtype), to_finest, input_precision="ieee")
        finest += tl.load(up2_bias + finest_channels)[None, :]
        logits = tl.dot(_gelu(finest), hyper, input_precision=precision)
        tl.store(pixels + (quarter // 2 * (8 * w) + quarter % 2 * 2), logits, mask=kept)


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


@triton.jit
def _gelu(x: tl.tensor) -> tl.tensor:
    """GELU within 5e-7: x Φ(x) = max(x, 0) - |x| Φ(-|x|), and log2 Φ(-z) is close to a polynomial of degree 5.

    A third of the instructions of tl.erf. Fitted for the least error of z Φ(-z); beyond z = 6.5 it falls as Φ does.
    """
    z = tl.abs(x)
    exponent = -0.0004733093 * z + 0.00708455728
    exponent = exponent * z - 0.0518273832
    exponent = exponent * z - 0.459992438
    exponent = exponent * z - 1.15078785
    exponent = exponent * z - 1.00003762
    return tl.maximum(x, 0.0) - z * tl.exp2(exponent)


@triton.jit
def _block_rows(
    pointer: tl.tensor,  # (N, T, H * D)
    n: tl.tensor,
    T: tl.constexpr,
    TP: tl.constexpr,
    H: tl.constexpr,
    D: tl.constexpr,
    dtype: tl.constexpr,
) -> tl.tensor:
    """Projected tokens of prompt n, block-diagonally: (H * TP, H * D)."""
    row, channel = tl.arange(0, H * TP), tl.arange(0, H * D)
    own = (row // TP)[:, None] == (channel // D)[None, :]
    offsets = ((n * T + row % TP) * (H * D))[:, None] + channel[None, :]
    return tl.load(pointer + offsets, mask=own & (row % TP < T)[:, None], other=0.0).to(dtype)


@triton.jit
def _tile(
    pointer: tl.tensor, tokens: tl.tensor, real: tl.tensor, stride: tl.tensor, WIDTH: tl.constexpr
) -> tl.tensor:
    """Rows of image tokens, (TILE, WIDTH)."""
    return tl.load(pointer + tokens[:, None] * stride + tl.arange(0, WIDTH)[None, :], mask=real[:, None], other=0.0)


@triton.jit
def _project(rows: tl.tensor, weight: tl.tensor, WIDTH: tl.constexpr) -> tl.tensor:
    """Rows (R, WIDTH) times a matrix (WIDTH, WIDTH), rounded as operands are."""
    channel = tl.arange(0, WIDTH)
    return _product(rows, tl.load(weight + channel[:, None] * WIDTH + channel[None, :])).to(rows.dtype)


@triton.jit
def _times_vector(rows: tl.tensor, vector: tl.tensor, WIDTH: tl.constexpr) -> tl.tensor:
    """Rows (R, WIDTH) times a vector (WIDTH,): (R,)."""
    return tl.sum(rows.to(tl.float32) * tl.load(vector + tl.arange(0, WIDTH))[None, :], axis=1)


@triton.jit
def _load(matrices: tl.tensor, n: tl.tensor, ROWS: tl.constexpr, COLUMNS: tl.constexpr) -> tl.tensor:
    """Matrix n of (N, ROWS, COLUMNS)."""
    places = tl.arange(0, ROWS)[:, None] * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    return tl.load(matrices + n.to(tl.int64) * ROWS * COLUMNS + places)


@triton.jit
def _store(matrices: tl.tensor, n: tl.tensor, matrix: tl.tensor, ROWS: tl.constexpr, COLUMNS: tl.constexpr) -> None:
    """Write matrix n of (N, ROWS, COLUMNS)."""
    places = tl.arange(0, ROWS)[:, None] * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    tl.store(matrices + n.to(tl.int64) * ROWS * COLUMNS + places, matrix.to(matrices.dtype.element_ty))


@triton.jit
def _product(a: tl.tensor, b: tl.tensor) -> tl.tensor:
    return tl.dot(a, b, input_precision="ieee")


@triton.jit
def _add_product(a: tl.tensor, b: tl.tensor, acc: tl.tensor) -> tl.tensor:
    return tl.dot(a, b, acc=acc, input_precision="ieee")
