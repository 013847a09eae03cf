"""The ViT encoder's blocks on a GPU in reduced precision, with few passes over memory between the matrix products.

The same arithmetic as `image_encoder.Block` under autocast: residuals, norms and sums in float32, operands of products
in the reduced type. Kernels take the place of copies: one adds, normalises and casts; one cuts queries, keys and values
out of their product, into padded windows with relative positions as further channels (`augmented_attention`); one puts
the windows together again.

Legend: B images, H W rows and columns of tokens, C channels, N heads, D = C / N, S side of a window (or of everything).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor, nn

if TYPE_CHECKING:
    from sam_pipeline.model.networks.image_encoder import Attention, Block


def run_blocks(x: Tensor, blocks: Iterable[Block], dtype: torch.dtype) -> Tensor:
    """Run transformer blocks.

    Args:
        x: (B, H, W, C) float32.
        blocks: one after another.
        dtype: of the operands of products.

    Returns:
        (B, H, W, C) float32.
    """
    x, update = x.clone(memory_format=torch.contiguous_format), None
    for block in blocks:
        normed = _add_norm(x, update, block.norm1, dtype)
        normed = _add_norm(x, _attend(normed, block.attn, block.window_size), block.norm2, dtype)
        update = _linear(F.gelu(_linear(normed, block.mlp.lin1)), block.mlp.lin2)
    return x if update is None else x + update


def _linear(x: Tensor, linear: nn.Linear) -> Tensor:
    return F.linear(x, linear.weight.to(x.dtype), linear.bias.to(x.dtype))


def _add_norm(x: Tensor, update: Tensor | None, norm: nn.LayerNorm, dtype: torch.dtype) -> Tensor:
    """Add an update to x (B, H, W, C) in place, and return the layer norm of the sum."""
    normed = torch.empty_like(x, dtype=dtype)
    C, summed = x.shape[-1], None if update is None else x
    with _device_of(x):
        add_norm[(x.numel() // C,)](
            x, 1, C, update, norm.weight, norm.bias, norm.eps, summed, normed, None, None,
            C=C, BLOCK=triton.next_power_of_2(C),
        )  # fmt: skip
    return normed


def _attend(x: Tensor, attn: Attention, window_size: int) -> Tensor:
    """`Attention` of normed tokens x (B, H, W, C)."""
    B, H, W, C = x.shape
    N, S = attn.num_heads, window_size or H
    rows, columns = -(-H // S), -(-W // S)
    D = C // N
    size = -(-(D + 2 * S) // 8) * 8  # flash attention wants one size for all three, a multiple of 8
    qkv = _linear(x, attn.qkv)
    q, k, v = (qkv.new_empty(B * rows * columns, N, S * S, size) for _ in range(3))
    shapes = {"N": N, "D": D, "S": S, "SIZE": size, "ROWS": rows, "COLUMNS": columns}
    with _device_of(x):
        split_heads[(B * rows * columns, N, 2 * S)](
            qkv, attn.qkv.bias.to(x.dtype), attn.rel_pos_h.to(x.dtype), attn.rel_pos_w.to(x.dtype), q, k, v, H, W,
            D**-0.5, **shapes, BLOCK_S=max(16, triton.next_power_of_2(S)), BLOCK_D=max(16, triton.next_power_of_2(D)),
            REST=triton.next_power_of_2(size - D), num_warps=8 if S > 32 else 4,
        )  # fmt: skip
        attended = F.scaled_dot_product_attention(q, k, v, scale=1.0)
        merged = torch.empty_like(x)
        merge_heads[(B * H * W,)](
            attended, merged, H, W, *attended.stride()[:3], **shapes, BLOCK=triton.next_power_of_2(C)
        )
    return _linear(merged, attn.proj)


def _device_of(x: Tensor) -> Any:
    """Context manager that makes the tensor's device current: Triton launches on the current device."""
    return torch.cuda.device_of(x)  # type: ignore[no-untyped-call]


@triton.jit(do_not_specialize=["rows_together"])
def add_norm(
    x: tl.tensor,  # (rows, C) float32, so many of them one after another
    rows_together: tl.tensor,
    stride: tl.tensor,  # to the next so many
    update: tl.tensor,  # (rows, C), or None
    weight: tl.tensor,  # (C,)
    bias: tl.tensor,  # (C,)
    eps: tl.tensor,
    summed: tl.tensor,  # out: (rows, C), perhaps x if its rows are all together; or None
    normed: tl.tensor,  # out: (rows, C)
    pe: tl.tensor,  # (rows, C), or None
    with_pe: tl.tensor,  # out: (rows, C), or None
    C: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Add an update to a row, and normalise the sum; with `pe`, also the norm plus that."""
    channels = tl.arange(0, BLOCK)
    real = channels < C
    number = tl.program_id(0).to(tl.int64)
    places = number * C + channels
    row_in_x = x + number // rows_together * stride + number % rows_together * C
    row = tl.load(row_in_x + channels, mask=real, other=0.0)
    if update is not None:
        row += tl.load(update + places, mask=real, other=0.0).to(tl.float32)
        if summed is not None:
            tl.store(summed + places, row, mask=real)
    centred = tl.where(real, row - tl.sum(row, axis=0) / C, 0.0)
    scale = tl.rsqrt(tl.sum(centred * centred, axis=0) / C + eps)
    scaled = centred * scale * tl.load(weight + channels, mask=real, other=0.0)
    output = scaled + tl.load(bias + channels, mask=real, other=0.0)
    tl.store(normed + places, output.to(normed.dtype.element_ty), mask=real)
    if pe is not None:
        tl.store(with_pe + places, output + tl.load(pe + places, mask=real, other=0.0), mask=real)


@triton.jit
def split_heads(
    qkv: tl.tensor,  # (B, H, W, 3, N, D)
    bias: tl.tensor,  # (3, N, D), what a padded token has
    rel_pos_h: tl.tensor,  # (2 * S - 1, D)
    rel_pos_w: tl.tensor,  # (2 * S - 1, D)
    q: tl.tensor,  # out, as the next two: (B * ROWS * COLUMNS, N, S * S, SIZE)
    k: tl.tensor,
    v: tl.tensor,
    H: tl.tensor,
    W: tl.tensor,
    scale: tl.tensor,
    N: tl.constexpr,
    D: tl.constexpr,
    S: tl.constexpr,
    SIZE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_D: tl.constexpr,
    REST: tl.constexpr,
) -> None:
    """Write one row of a window for one head, or the horizontal positions of one column.

    A query is (q * scale, rel_h, rel_w, 0), a key (k, one at its row, one at its column, 0), a value (v, 0).
    """
    window, head, line = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    is_row = line < S
    line = tl.where(is_row, line, line - S)
    place, channel = tl.arange(0, BLOCK_S), tl.arange(0, BLOCK_D)
    row, column = tl.where(is_row, line, place), tl.where(is_row, place, line)
    y, x = window // COLUMNS % ROWS * S + row, window % COLUMNS * S + column
    real = (place < S)[:, None] & (channel < D)[None, :]
    inside = real & ((y < H) & (x < W))[:, None]
    token = (window // (ROWS * COLUMNS)).to(tl.int64) * H * W + y * W + x
    inputs = qkv + token[:, None] * (3 * N * D) + (head * D + channel)[None, :]
    padding = bias + (head * D + channel)[None, :] + tl.zeros((BLOCK_S, 1), tl.int32)
    outputs = ((window.to(tl.int64) * N + head) * S * S + row * S + column)[:, None] * SIZE
    queries = _load(inputs, inside, padding, real)

    # The offset between the query and each key along the line: entry [query, key] of the table is theirs.
    key = tl.arange(0, BLOCK_S)
    table = tl.where(is_row, rel_pos_h, rel_pos_w) + (line - key + (S - 1))[None, :] * D + channel[:, None]
    positions = tl.load(table, mask=(channel < D)[:, None] & (key < S)[None, :], other=0.0)
    logits = tl.dot(queries, positions, input_precision="ieee").to(q.dtype.element_ty)  # (BLOCK_S, keys)
    first = tl.where(is_row, D, D + S)
    tl.store(q + outputs + first + key[None, :], logits, mask=(place < S)[:, None] & (key < S)[None, :])
    if is_row:
        tl.store(q + outputs + channel[None, :], (queries.to(tl.float32) * scale).to(q.dtype.element_ty), mask=real)
        inputs += N * D
        padding += N * D
        tl.store(k + outputs + channel[None, :], _load(inputs, inside, padding, real), mask=real)
        values = _load(inputs + N * D, inside, padding + N * D, real)
        tl.store(v + outputs + channel[None, :], values, mask=real)
        rest = tl.arange(0, REST)
        is_own = (rest[None, :] == line) | (rest[None, :] == S + place[:, None])
        in_rest = (place < S)[:, None] & (rest < SIZE - D)[None, :]
        tl.store(k + outputs + D + rest[None, :], is_own.to(tl.float32).to(k.dtype.element_ty), mask=in_rest)
        zeros = tl.zeros((BLOCK_S, REST), tl.float32).to(v.dtype.element_ty)
        tl.store(v + outputs + D + rest[None, :], zeros, mask=in_rest)
        tl.store(q + outputs + D + rest[None, :], zeros, mask=in_rest & (rest >= 2 * S)[None, :])


@triton.jit
def _load(inputs: tl.tensor, inside: tl.tensor, padding: tl.tensor, real: tl.tensor) -> tl.tensor:
    """What the image holds, or outside of it what a padded token has."""
    return tl.where(inside, tl.load(inputs, mask=inside, other=0.0), tl.load(padding, mask=real & ~inside, other=0.0))


@triton.jit
def merge_heads(
    attended: tl.tensor,  # (B * ROWS * COLUMNS, N, S * S, SIZE), the last contiguous
    merged: tl.tensor,  # out: (B, H, W, N, D)
    H: tl.tensor,
    W: tl.tensor,
    window_stride: tl.tensor,
    head_stride: tl.tensor,
    token_stride: tl.tensor,
    N: tl.constexpr,
    D: tl.constexpr,
    S: tl.constexpr,
    SIZE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Take one token's channels out of its window."""
    token = tl.program_id(0)
    image, y, x = token // (H * W), token // W % H, token % W
    window = (image * ROWS + y // S) * COLUMNS + x // S
    channels = tl.arange(0, BLOCK)
    real = channels < N * D
    inputs = attended + window.to(tl.int64) * window_stride + (y % S * S + x % S) * token_stride
    values = tl.load(inputs + channels // D * head_stride + channels % D, mask=real, other=0.0)
    tl.store(merged + token.to(tl.int64) * (N * D) + channels, values, mask=real)
