"""The kernel that upscales masks. docs/decoder.md, "Low rank", has the algebra; legend: see `image_side`."""

from __future__ import annotations

import triton
import triton.language as tl

from sam_pipeline.masks.decoder.gpu.matrices import add_product


@triton.jit
def upscale(
    attention1: tl.tensor,  # A1, (N, K, R)
    rstd1: tl.tensor,  # r1, (N, K)
    attention2: tl.tensor,  # A2, (N, K, R)
    rstd2: tl.tensor,  # r2, (N, K)
    shared: tl.tensor,  # (K, 4 * F) of rows that are `stride` apart
    stride: tl.tensor,
    vectors1: tl.tensor,  # (N, R, 4 * F)
    vectors2: tl.tensor,  # (N, R, 4 * F)
    up1_bias: tl.tensor,  # (4 * F,)
    up_weight: tl.tensor,  # (F,)
    up_bias: tl.tensor,  # (F,)
    up_eps: tl.tensor,
    up2: tl.tensor,  # (F, 4 * G)
    up2_bias: tl.tensor,  # (4 * G,)
    hyper_in: tl.tensor,  # (N, M, G)
    keep_mask: tl.tensor,  # (N, M) bool
    num_kept: tl.tensor,  # (N, M): masks to keep up to this one, with it
    masks: tl.tensor,  # out: (masks, 4 * rows, 4 * w)
    num_tokens: tl.tensor,  # K
    num_upscaled: tl.tensor,  # rows * w
    w: tl.tensor,
    R: tl.constexpr,
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
    is_kept = tl.load(keep_mask + n * M + m, mask=m < M, other=0) != 0
    if tl.max(is_kept.to(tl.int32), axis=0) == 0:
        return
    mask_index = tl.load(num_kept + n * M + m, mask=m < M, other=0) - 1
    token = tl.program_id(1) * TILE + tl.arange(0, TILE)
    real = token < num_upscaled
    places = n.to(tl.int64) * num_tokens + token
    row = tl.arange(0, R)
    own1 = tl.load(attention1 + places[:, None] * R + row[None, :], mask=real[:, None], other=0.0)
    own2 = tl.load(attention2 + places[:, None] * R + row[None, :], mask=real[:, None], other=0.0)
    r1 = tl.load(rstd1 + places, mask=real, other=0.0)
    r2 = tl.load(rstd2 + places, mask=real, other=0.0)
    vector_rows = (n.to(tl.int64) * R + row) * (4 * F)
    fine_channels, finest_channels = tl.arange(0, F), tl.arange(0, 4 * G)
    to_finest = tl.load(up2 + fine_channels[:, None] * (4 * G) + finest_channels[None, :])
    own_rows = (finest_channels // G)[:, None] == corner[None, :]
    hyper_rows = hyper_in + (n * M + m)[None, :] * G + (finest_channels % G)[:, None]
    hyper = tl.load(hyper_rows, mask=own_rows & (m < M)[None, :], other=0.0)
    kept = real[:, None] & is_kept[None, :]
    corner_pixels = mask_index.to(tl.int64) * 16 * num_upscaled + corner // 2 * (4 * w) + corner % 2
    pixels = masks + corner_pixels[None, :] + (token // w * (16 * w) + token % w * 4)[:, None]  # (TILE, 4 * MP)
    # Next to products of 16 bits one of TF32, which has as many bits as float16, loses little.
    precision: tl.constexpr = "ieee" if own1.dtype == tl.float32 else "tf32"
    for quarter in range(4):  # of a token, by row and column
        columns = quarter * F + fine_channels
        own_vectors = tl.load(vectors1 + vector_rows[:, None] + columns[None, :])
        fine = tl.load(shared + token[:, None] * stride + columns[None, :], mask=real[:, None], other=0.0)
        fine = add_product(own1, own_vectors, fine.to(tl.float32)) * r1[:, None]
        own_vectors = tl.load(vectors2 + vector_rows[:, None] + columns[None, :])
        fine = add_product(own2, own_vectors, fine) * r2[:, None] + tl.load(up1_bias + columns)[None, :]
        centred = fine - tl.sum(fine, axis=1, keep_dims=True) / F
        variance = tl.sum(centred * centred, axis=1, keep_dims=True) / F
        scale = tl.load(up_weight + fine_channels)[None, :] * tl.rsqrt(variance + up_eps)
        fine = _gelu(centred * scale + tl.load(up_bias + fine_channels)[None, :])
        finest = tl.dot(fine.to(own1.dtype), to_finest, input_precision="ieee")
        finest += tl.load(up2_bias + finest_channels)[None, :]
        logits = tl.dot(_gelu(finest), hyper, input_precision=precision)
        tl.store(pixels + (quarter // 2 * (8 * w) + quarter % 2 * 2), logits, mask=kept)


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
