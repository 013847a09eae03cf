"""The kernels of `triton_image_side`, which says how their work is divided.

In tiles, image tokens are columns, (C, TILE): with 256 channels as rows, 8 warps share a product without any computing
the same as another, and tiles can be small enough to leave registers for the sums. The rows of T tokens in each of H
heads are padded to TP, a power of two, as Triton's blocks are; HT = H * TP below. Further legend: see `image_side`.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def average(
    image_queries: tl.tensor,  # (H * D, K)
    image_tokens: tl.tensor,  # (C, K)
    key_pe: tl.tensor,  # (C, K)
    block_keys: tl.tensor,  # (N, H * T, H * D)
    first_values: tl.tensor,  # (N, H * T, C)
    first_weight: tl.tensor,  # (C,)
    first_bias: tl.tensor,  # (C,)
    first_eps: tl.tensor,
    folded_keys: tl.tensor,  # (N, H * T, C); None, as the next five, where there is only the first layer
    score_bias: tl.tensor,  # (N, H * T)
    second_values: tl.tensor,  # (N, H * T, C)
    second_weight: tl.tensor,  # (C,)
    second_bias: tl.tensor,  # (C,)
    second_eps: tl.tensor,
    folded_queries: tl.tensor,  # (N, H * T, C)
    averages: tl.tensor,  # out: (N, splits, H * T, C)
    log_sum_exp: tl.tensor,  # out: (N, splits, H * T), of the scores of a split
    num_tokens: tl.tensor,
    tokens_a_program: tl.tensor,
    T: tl.constexpr,
    H: tl.constexpr,
    TP: tl.constexpr,
    D: tl.constexpr,
    C: tl.constexpr,
    TILE: tl.constexpr,
) -> None:
    """Compute the image tokens of a prompt after one layer or two, and average them by each row's attention weights."""
    n, split = tl.program_id(0), tl.program_id(1)
    dtype: tl.constexpr = image_tokens.dtype.element_ty
    first_keys, first_rows = _rows(block_keys, n, D, T, H, TP), _rows(first_values, n, C, T, H, TP)
    if folded_keys is not None:
        second_keys, second_rows = _rows(folded_keys, n, C, T, H, TP), _rows(second_values, n, C, T, H, TP)
        row_bias = _row_bias(score_bias, n, T, H, TP)
    query_rows = _rows(folded_queries, n, C, T, H, TP)

    # Online softmax, as in FlashAttention: sums are scaled down whenever a larger score turns up.
    largest = tl.full((H * TP,), float("-inf"), tl.float32)
    total = tl.zeros((H * TP,), tl.float32)
    sums = tl.zeros((C, H * TP), tl.float32)
    start = split * tokens_a_program
    for first_token in range(start, tl.minimum(start + tokens_a_program, num_tokens), TILE):
        tokens = first_token + tl.arange(0, TILE)
        pe = _columns(key_pe, tokens, num_tokens, C)
        updated = _first_layer(
            image_queries, image_tokens, tokens, num_tokens, first_keys, first_rows,
            first_weight, first_bias, first_eps, T, H, TP, D, C,
        )  # fmt: skip
        if folded_keys is not None:
            updated = _second_layer(
                updated, pe, second_keys, row_bias, second_rows, second_weight, second_bias, second_eps, T, H, TP, C
            )
        scores = tl.dot(query_rows, (updated + pe).to(dtype), input_precision="ieee")  # (HT, TILE)
        scores = tl.where((tokens < num_tokens)[None, :], scores, float("-inf"))
        new_largest = tl.maximum(largest, tl.max(scores, axis=1))
        weights = tl.exp(scores - new_largest[:, None])
        shrink = tl.exp(largest - new_largest)
        total = total * shrink + tl.sum(weights, axis=1)
        sums = tl.dot(
            updated.to(dtype), tl.trans(weights.to(dtype)), acc=sums * shrink[None, :], input_precision="ieee"
        )
        largest = new_largest

    rows, in_use = _row_indices(T, H, TP)
    rows += (n * tl.num_programs(1) + split) * H * T
    tl.store(log_sum_exp + rows, largest + tl.log(total), mask=in_use)
    outputs = averages + rows[None, :] * C + tl.arange(0, C)[:, None]
    tl.store(outputs, sums / total[None, :], mask=in_use[None, :])


@triton.jit
def rebuild(
    image_queries: tl.tensor,  # these fourteen as in average
    image_tokens: tl.tensor,
    key_pe: tl.tensor,
    block_keys: tl.tensor,
    first_values: tl.tensor,
    first_weight: tl.tensor,
    first_bias: tl.tensor,
    first_eps: tl.tensor,
    folded_keys: tl.tensor,
    score_bias: tl.tensor,
    second_values: tl.tensor,
    second_weight: tl.tensor,
    second_bias: tl.tensor,
    second_eps: tl.tensor,
    prompt_indices: tl.tensor,  # (N,) int32: index of a prompt in the output, negative for none
    rebuilt: tl.tensor,  # out: (prompts, num_rebuilt, C)
    num_tokens: tl.tensor,
    num_rebuilt: tl.tensor,
    tokens_a_program: tl.tensor,
    T: tl.constexpr,
    H: tl.constexpr,
    TP: tl.constexpr,
    D: tl.constexpr,
    C: tl.constexpr,
    TILE: tl.constexpr,
) -> None:
    """Write the first image tokens of a prompt after both layers."""
    n, split = tl.program_id(0), tl.program_id(1)
    prompt_index = tl.load(prompt_indices + n)
    if prompt_index < 0:
        return
    first_keys, first_rows = _rows(block_keys, n, D, T, H, TP), _rows(first_values, n, C, T, H, TP)
    second_keys, second_rows = _rows(folded_keys, n, C, T, H, TP), _rows(second_values, n, C, T, H, TP)
    row_bias = _row_bias(score_bias, n, T, H, TP)
    rebuilt += prompt_index.to(tl.int64) * num_rebuilt * C
    start = split * tokens_a_program
    for first_token in range(start, tl.minimum(start + tokens_a_program, num_rebuilt), TILE):
        tokens = first_token + tl.arange(0, TILE)
        pe = _columns(key_pe, tokens, num_tokens, C)
        updated = _first_layer(
            image_queries, image_tokens, tokens, num_tokens, first_keys, first_rows,
            first_weight, first_bias, first_eps, T, H, TP, D, C,
        )  # fmt: skip
        updated = _second_layer(
            updated, pe, second_keys, row_bias, second_rows, second_weight, second_bias, second_eps, T, H, TP, C
        )
        outputs = rebuilt + tokens[None, :] * C + tl.arange(0, C)[:, None]
        tl.store(outputs, updated.to(image_tokens.dtype.element_ty), mask=(tokens < num_rebuilt)[None, :])


@triton.jit
def upscale(
    tokens: tl.tensor,  # (prompts, num_tokens, C)
    up1: tl.tensor,  # (C, 4 * F)
    up1_bias: tl.tensor,  # (4 * F,)
    up_weight: tl.tensor,  # (F,)
    up_bias: tl.tensor,  # (F,)
    up_eps: tl.tensor,
    up2: tl.tensor,  # (F, 4 * G)
    up2_bias: tl.tensor,  # (4 * G,)
    hyper_in: tl.tensor,  # (N, M, G)
    prompt_indices: tl.tensor,  # (N,) int32: index of a prompt in tokens, negative for none
    mask_indices: tl.tensor,  # (N, M) int32: index of a mask in the output, negative for none
    masks: tl.tensor,  # out: (masks, 4 * rows, 4 * w)
    num_tokens: tl.tensor,  # rows * w
    w: tl.tensor,
    M: tl.constexpr,
    C: tl.constexpr,
    F: tl.constexpr,
    G: tl.constexpr,
    MP: tl.constexpr,
    TILE: tl.constexpr,
) -> None:
    """Compute the mask logits of the 4 x 4 pixels of each token of a tile; here tokens are rows."""
    n = tl.program_id(0)
    prompt_index = tl.load(prompt_indices + n)
    if prompt_index < 0:
        return
    token = tl.program_id(1) * TILE + tl.arange(0, TILE)
    real = token < num_tokens
    channels, fine_channels, finest_channels = tl.arange(0, C), tl.arange(0, F), tl.arange(0, 4 * G)
    inputs = tokens + (prompt_index.to(tl.int64) * num_tokens + token)[:, None] * C + channels[None, :]
    tile = tl.load(inputs, mask=real[:, None], other=0.0)  # (TILE, C)
    to_finest = tl.load(up2 + fine_channels[:, None] * (4 * G) + finest_channels[None, :])
    # The hypernetwork's product is one for all masks and corners of a token: 4 G rows, 4 corners x MP masks.
    output = tl.arange(0, 4 * MP)
    corner, m = output // MP, output % MP
    own_rows = (finest_channels // G)[:, None] == corner[None, :]
    hyper_rows = hyper_in + (n * M + m)[None, :] * G + (finest_channels % G)[:, None]
    hyper = tl.load(hyper_rows, mask=own_rows & (m < M)[None, :], other=0.0)
    mask_index = tl.load(mask_indices + n * M + m, mask=m < M, other=-1)
    kept = real[:, None] & (mask_index >= 0)[None, :]
    corner_pixels = mask_index.to(tl.int64) * 16 * num_tokens + corner // 2 * (4 * w) + corner % 2
    pixels = masks + corner_pixels[None, :] + (token // w * (16 * w) + token % w * 4)[:, None]  # (TILE, 4 * MP)
    # Next to products of a half type one of TF32, with no bit less, loses nothing.
    precision: tl.constexpr = "ieee" if tile.dtype == tl.float32 else "tf32"
    for quarter in range(4):  # of a token, by row and column
        columns = quarter * F + fine_channels
        to_fine = tl.load(up1 + channels[:, None] * (4 * F) + columns[None, :])
        fine = tl.dot(tile, to_fine, input_precision="ieee") + tl.load(up1_bias + columns)[None, :]  # (TILE, F)
        centred = fine - tl.sum(fine, axis=1, keep_dims=True) / F
        variance = tl.sum(centred * centred, axis=1, keep_dims=True) / F
        scale = tl.load(up_weight + fine_channels)[None, :] * tl.rsqrt(variance + up_eps)
        fine = _gelu(centred * scale + tl.load(up_bias + fine_channels)[None, :])
        finest = tl.dot(fine.to(tile.dtype), to_finest, input_precision="ieee")
        finest += tl.load(up2_bias + finest_channels)[None, :]
        logits = tl.dot(_gelu(finest), hyper, input_precision=precision)
        tl.store(pixels + (quarter // 2 * (8 * w) + quarter % 2 * 2), logits, mask=kept)


@triton.jit
def _first_layer(
    image_queries: tl.tensor,
    image_tokens: tl.tensor,
    tokens: tl.tensor,
    num_tokens: tl.tensor,
    key_rows: tl.tensor,
    value_rows: tl.tensor,
    norm_weight: tl.tensor,
    norm_bias: tl.tensor,
    norm_eps: tl.tensor,
    T: tl.constexpr,
    H: tl.constexpr,
    TP: tl.constexpr,
    D: tl.constexpr,
    C: tl.constexpr,
) -> tl.tensor:
    """Image tokens after the first layer, (C, TILE) float32."""
    before = _columns(image_tokens, tokens, num_tokens, C).to(tl.float32)
    queries = _columns(image_queries, tokens, num_tokens, D)
    scores = tl.dot(tl.trans(queries), tl.trans(key_rows), input_precision="ieee")  # (TILE, HT)
    return _add_values(before, scores, value_rows, norm_weight, norm_bias, norm_eps, T, H, TP, C)


@triton.jit
def _second_layer(
    before: tl.tensor,
    pe: tl.tensor,
    key_rows: tl.tensor,
    row_bias: tl.tensor,
    value_rows: tl.tensor,
    norm_weight: tl.tensor,
    norm_bias: tl.tensor,
    norm_eps: tl.tensor,
    T: tl.constexpr,
    H: tl.constexpr,
    TP: tl.constexpr,
    C: tl.constexpr,
) -> tl.tensor:
    """Image tokens after the second layer from those after the first, (C, TILE) float32."""
    scores = tl.dot(key_rows, (before + pe).to(key_rows.dtype), input_precision="ieee") + row_bias[:, None]
    scores = tl.trans(scores)
    return _add_values(before, scores, value_rows, norm_weight, norm_bias, norm_eps, T, H, TP, C)


@triton.jit
def _add_values(
    before: tl.tensor,
    scores: tl.tensor,
    value_rows: tl.tensor,
    norm_weight: tl.tensor,
    norm_bias: tl.tensor,
    norm_eps: tl.tensor,
    T: tl.constexpr,
    H: tl.constexpr,
    TP: tl.constexpr,
    C: tl.constexpr,
) -> tl.tensor:
    """Add to image tokens (C, TILE) the values (HT, C) attended by scores (TILE, HT), then apply the layer norm."""
    by_head = tl.reshape(scores, (scores.shape[0], H, TP))
    by_head = tl.where(tl.arange(0, TP)[None, None, :] < T, by_head, float("-inf"))
    weights = tl.exp(by_head - tl.max(by_head, axis=2, keep_dims=True))
    weights = tl.reshape(weights / tl.sum(weights, axis=2, keep_dims=True), scores.shape)
    summed = tl.dot(tl.trans(value_rows), tl.trans(weights.to(value_rows.dtype)), acc=before, input_precision="ieee")

    centred = summed - tl.sum(summed, axis=0, keep_dims=True) / C
    variance = tl.sum(centred * centred, axis=0, keep_dims=True) / C
    channels = tl.arange(0, C)
    scaled = centred * tl.rsqrt(variance + norm_eps) * tl.load(norm_weight + channels)[:, None]
    return scaled + tl.load(norm_bias + channels)[:, None]


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
def _columns(pointer: tl.tensor, tokens: tl.tensor, num_tokens: tl.tensor, HEIGHT: tl.constexpr) -> tl.tensor:
    """Columns of image tokens, of (HEIGHT, K), as (HEIGHT, TILE)."""
    offsets = tl.arange(0, HEIGHT)[:, None] * num_tokens + tokens[None, :]
    return tl.load(pointer + offsets, mask=(tokens < num_tokens)[None, :], other=0.0)


@triton.jit
def _rows(
    pointer: tl.tensor, n: tl.tensor, WIDTH: tl.constexpr, T: tl.constexpr, H: tl.constexpr, TP: tl.constexpr
) -> tl.tensor:
    """Rows of prompt n, of (N, H * T, WIDTH), as (HT, WIDTH); zero where they are padding."""
    rows, in_use = _row_indices(T, H, TP)
    offsets = (n * H * T + rows)[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
    return tl.load(pointer + offsets, mask=in_use[:, None], other=0.0)


@triton.jit
def _row_bias(pointer: tl.tensor, n: tl.tensor, T: tl.constexpr, H: tl.constexpr, TP: tl.constexpr) -> tl.tensor:
    """Numbers of prompt n, of (N, H * T), as (HT,); zero where they are padding."""
    rows, in_use = _row_indices(T, H, TP)
    return tl.load(pointer + n * H * T + rows, mask=in_use, other=0.0)


@triton.jit
def _row_indices(T: tl.constexpr, H: tl.constexpr, TP: tl.constexpr) -> tuple[tl.tensor, tl.tensor]:
    """For each of HT padded rows, its index among H * T, and whether it is one of them."""
    row = tl.arange(0, H * TP)
    return row // TP * T + row % TP, row % TP < T
