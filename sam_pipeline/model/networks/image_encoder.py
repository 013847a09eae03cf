"""The ViT image encoder of SAM: a plain vision transformer with windowed attention in most of its blocks.

Reproduces segment_anything/modeling/image_encoder.py, itself the backbone of ViTDet (Li et al. 2022) with the
decomposed relative positions of MViTv2 (Li et al. 2021). Parameter names are the official ones.

The arithmetic is the official one in another order: padding is added to windows after the projection to queries, keys
and values; on a CPU, bands of rows go through a block one after another, and global attention in tiles of queries, so
that everything between two layers stays in the cache; on a GPU, relative positions become part of queries and keys, and
in reduced precision `triton_blocks` runs the blocks.

Legend: B images (or windows), H W rows and columns of tokens, L = H * W, C channels, N heads, D = C / N.
"""

from __future__ import annotations

from collections.abc import Collection
from importlib.util import find_spec
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam_pipeline.model.networks.layers import MLPBlock, Neck, computes_as_its_type
from sam_pipeline.model.networks.linear import Linear, linear
from sam_pipeline.model.networks.windows import window_partition, window_unpartition

# Tokens that go through a block together on a CPU; the widest activation of ViT-B is then 25 MB. Smaller bands are no
# faster, and threads wait for one another more often, which is dear when other processes want the same cores.
BAND_TOKENS = 2048
# Attention scores of a head held at once on a CPU, 8 MB. Half and twice as many take the same time on one thread.
TILE_SCORES = 2**21


class ImageEncoderViT(nn.Module):
    """Turns a normalised, padded square image into its embedding.

    The defaults are ViT-B's. ``img_size`` and the patch size fix the number of tokens, and the learned positions have
    exactly that many entries: images of another size are resized and padded first, so tables are never interpolated.

    Args:
        img_size: side of the square input, pixels.
        patch_size: side of a patch, pixels.
        in_chans: channels of the image.
        embed_dim: C.
        depth: transformer blocks.
        num_heads: N, a divisor of ``embed_dim``.
        mlp_ratio: width of the feed-forward layer over ``embed_dim``.
        out_chans: channels of the embedding.
        window_size: side of an attention window, tokens.
        global_attn_indexes: blocks that attend to the whole image instead of windows.
    """

    def __init__(
        self,
        img_size: int = 1024,
        patch_size: int = 16,
        in_chans: int = 3,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        out_chans: int = 256,
        window_size: int = 14,
        global_attn_indexes: Collection[int] = (2, 5, 8, 11),
    ) -> None:
        super().__init__()
        self.img_size = img_size
        tokens = img_size // patch_size
        self.patch_embed = PatchEmbed(patch_size, in_chans, embed_dim)
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens, tokens, embed_dim))
        self.blocks = nn.ModuleList(
            Block(
                embed_dim,
                num_heads,
                mlp_dim=int(embed_dim * mlp_ratio),
                window_size=0 if index in global_attn_indexes else window_size,
                tokens=tokens,
            )
            for index in range(depth)
        )
        self.neck = Neck(embed_dim, out_chans)

    def forward(self, x: Tensor) -> Tensor:
        """Embed images.

        Args:
            x: (B, 3, img_size, img_size) float, normalised and padded, in the frame of the model input.

        Returns:
            Image embeddings, (B, out_chans, img_size / patch_size, img_size / patch_size) float.
        """
        x = self.patch_embed(x) + self.pos_embed  # (B, H, W, C)
        dtype = dtype_of_triton_blocks(x, self.blocks)
        if dtype is None:
            for block in self.blocks:
                x = block(x)
        else:
            # Imported here: Triton comes with torch for CUDA alone.
            from sam_pipeline.model.networks.triton_blocks import run_blocks

            x = run_blocks(x, [cast(Block, block) for block in self.blocks], dtype)
        x = self.neck(x.permute(0, 3, 1, 2))  # (B, out_chans, H, W)
        return x


def dtype_of_triton_blocks(x: Tensor, blocks: nn.ModuleList) -> torch.dtype | None:
    """The type that `triton_blocks` are to compute in; None where the plain blocks are to be used.

    The plain ones are for CPUs, for full precision, for training, for GPUs before Ampere, on which a tile of ours would
    not fit, for compilers and exporters, which see no launch of Triton's, and for blocks in which a script has put
    adapters or hooks, or that it has compiled.
    """
    if x.device.type != "cuda" or torch.is_grad_enabled() or not torch.is_autocast_enabled("cuda"):
        return None
    if x.dtype != torch.float32 or torch.jit.is_tracing() or torch.compiler.is_compiling():  # type: ignore[attr-defined, no-untyped-call]
        return None
    if torch.cuda.get_device_capability(x.device)[0] < 8 or find_spec("triton") is None or not are_own(blocks):
        return None
    return torch.get_autocast_dtype("cuda")


def are_own(blocks: nn.ModuleList) -> bool:
    """Whether blocks are made of the modules of this package and torch alone, without hooks."""
    own = {Block, Attention, MLPBlock, Linear, nn.LayerNorm, nn.GELU}
    modules = [module for block in blocks for module in block.modules()]
    return all(type(module) in own and computes_as_its_type(module) for module in modules)


class PatchEmbed(nn.Module):
    """One linear map from each patch's pixels to a token.

    Args:
        patch_size: side of a patch, pixels.
        in_chans: channels of the image.
        embed_dim: C.
    """

    def __init__(self, patch_size: int, in_chans: int, embed_dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_chans, embed_dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` (B, in_chans, pixels, pixels) float to tokens (B, H, W, C)."""
        x = self.proj(x).permute(0, 2, 3, 1)
        return x


class Block(nn.Module):
    """A transformer block with norms before attention and feed-forward.

    Args:
        dim: C.
        num_heads: N.
        mlp_dim: width of the feed-forward layer.
        window_size: side of an attention window in tokens; 0 attends to the whole image.
        tokens: side of the whole image in tokens.
    """

    def __init__(self, dim: int, num_heads: int, mlp_dim: int, window_size: int, tokens: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, num_heads, size=window_size or tokens)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = MLPBlock(dim, mlp_dim)
        self.window_size = window_size

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens ``x`` (B, H, W, C) float to the same shape."""
        if self.window_size == 0:
            x = x + self.attn(self.norm1(x))
            return torch.cat([band + self.mlp(self.norm2(band)) for band in bands(x)], dim=1)
        # Windows do not see each other, so a band of whole rows of windows passes through the entire block alone.
        outputs = []
        for band in bands(x, self.window_size):
            band = band + self.attn(self.norm1(band), self.window_size)
            outputs.append(band + self.mlp(self.norm2(band)))
        return torch.cat(outputs, dim=1)


class Attention(nn.Module):
    """Multi-head self-attention over a square of tokens, with learned relative positions for each axis.

    Args:
        dim: C.
        num_heads: N.
        size: side of the square, tokens.
    """

    def __init__(self, dim: int, num_heads: int, size: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        head_dim = dim // num_heads
        self.qkv = Linear(dim, dim * 3)
        self.proj = Linear(dim, dim)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * size - 1, head_dim))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * size - 1, head_dim))

    def forward(self, x: Tensor, window_size: int = 0) -> Tensor:
        """Attend within windows, or with size 0 to everything.

        Args:
            x: (B, H, W, C) float tokens.
            window_size: side of a window, tokens. The last windows are padded with zero tokens, as in the official
                code.

        Returns:
            (B, H, W, C) float.
        """
        qkv = self.qkv(x)  # (B, H, W, 3 C)
        if window_size > 0:
            # A zero token is attended to like any other, without a mask.
            qkv = window_partition(qkv, window_size, padding=self._qkv_of_zero(x))
        windows, height, width, _ = qkv.shape
        qkv = qkv.reshape(windows, height * width, 3, self.num_heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (B or windows, N, L, D)
        rel_h, rel_w = decomposed_rel_pos(q, self.rel_pos_h, self.rel_pos_w, (height, width))

        if x.device.type != "cpu":
            attended = augmented_attention(q, k, v, rel_h, rel_w)
        elif q.shape[2] ** 2 > TILE_SCORES:
            attended = tiled_attention(q, k, v, rel_h, rel_w)
        else:
            attended = masked_attention(q, k, v, rel_h, rel_w)
        attended = attended.transpose(1, 2).reshape(windows, height, width, -1)

        if window_size > 0:
            attended = window_unpartition(attended, (x.shape[1], x.shape[2]))
        x = self.proj(attended)
        return x

    def _qkv_of_zero(self, x: Tensor) -> Tensor:
        """Query, key and value of a zero token, (3 C,): the bias, where no script has put an adapter or a hook."""
        if type(self.qkv) is Linear and computes_as_its_type(self.qkv):
            return self.qkv.bias
        qkv: Tensor = self.qkv(x.new_zeros(1, 1, 1, x.shape[-1]))
        return qkv[0, 0, 0]


def bands(x: Tensor, step: int = 1) -> tuple[Tensor, ...]:
    """Cut tokens into bands of rows that stay in a CPU's cache; on other devices one band is everything.

    Args:
        x: (B, H, W, C) tokens.
        step: rows that must stay together.

    Returns:
        Each (B, h, W, C), with h a multiple of ``step`` in all but the last.
    """
    if x.device.type != "cpu":
        return (x,)
    W = x.shape[2]
    return torch.split(x, step * max(1, BAND_TOKENS // (step * W)), dim=1)


def masked_attention(q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor) -> Tensor:
    """Attention with relative positions as an additive mask, which takes B * N * L * L floats: for windows on a CPU.

    Args:
        q: (B, N, L, D) float, not scaled.
        k: (B, N, L, D) float.
        v: (B, N, L, D) float.
        rel_h: (B, N, L, H) float, added to the logits of all keys of a row.
        rel_w: (B, N, L, W) float, added to the logits of all keys of a column.

    Returns:
        (B, N, L, D) float.
    """
    mask = (rel_h[..., :, None] + rel_w[..., None, :]).flatten(-2)  # (B, N, L, L)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def tiled_attention(q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor) -> Tensor:
    """The same as ``masked_attention``, a few queries of one head at a time: for whole images on a CPU."""
    scale = q.shape[-1] ** -0.5
    H, W = rel_h.shape[-1], rel_w.shape[-1]
    tile = max(1, TILE_SCORES // (H * W))
    outputs = []
    for head in zip(*(t.flatten(0, 1).unbind(0) for t in (q, k, v, rel_h, rel_w)), strict=True):
        keys, values = head[1].contiguous(), head[2].t().contiguous()  # (L, D), (D, L)
        for queries, vertical, horizontal in zip(*(head[i].split(tile) for i in (0, 3, 4)), strict=True):
            scores = linear(queries * scale, keys)  # (tile, L)
            scores.view(-1, H, W).add_(vertical[:, :, None]).add_(horizontal[:, None, :])
            outputs.append(linear(scores.softmax(dim=-1), values))
    return torch.cat(outputs).view_as(q)


def augmented_attention(q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor) -> Tensor:
    """The same as ``masked_attention`` without a mask: for GPUs, whose kernels then need no memory of size L * L.

    Adding ``rel_h[row of key] + rel_w[column of key]`` to a logit is a longer dot product: the query is followed by
    ``rel_h`` and ``rel_w``, the key by ones at its row and at its column.
    """
    D, H, W = q.shape[-1], rel_h.shape[-1], rel_w.shape[-1]
    rows = torch.eye(H, dtype=k.dtype, device=k.device).repeat_interleave(W, dim=0)  # (L, H)
    columns = torch.eye(W, dtype=k.dtype, device=k.device).repeat(H, 1)  # (L, W)
    q = torch.cat([q * D**-0.5, rel_h, rel_w], dim=-1)
    k = torch.cat([k, torch.cat([rows, columns], dim=-1).expand(*k.shape[:2], -1, -1)], dim=-1)
    # Flash attention wants one size for all three, a multiple of 8.
    size = -(-(D + H + W) // 8) * 8
    q, k, v = (F.pad(t, (0, size - t.shape[-1])) for t in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, scale=1.0)[..., :D]


def relative_positions(size: int, table: Tensor) -> Tensor:
    """Look up the embedding of the offset between every query and key position of one axis.

    Args:
        size: positions on the axis.
        table: (2 * size - 1, D) float, entry ``i`` for offset ``i - (size - 1)``.

    Returns:
        (size, size, D): entry [query, key].
    """
    positions = torch.arange(size, device=table.device)
    return table[positions[:, None] - positions[None, :] + (size - 1)]


def decomposed_rel_pos(q: Tensor, rel_pos_h: Tensor, rel_pos_w: Tensor, hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Attention logits that depend on the offset between query and key, one term an axis (MViTv2, section 4.1).

    Args:
        q: (B, N, L, D) float, not scaled.
        rel_pos_h: (2 * H - 1, D) float.
        rel_pos_w: (2 * W - 1, D) float.
        hw: (H, W).

    Returns:
        For every query, the vertical term of each row of keys, (B, N, L, H), and the horizontal term of each column,
        (B, N, L, W).
    """
    H, W = hw
    squares = q.reshape(*q.shape[:2], H, W, -1)
    rel_h = torch.einsum("bnhwc,hkc->bnhwk", squares, relative_positions(H, rel_pos_h))
    rel_w = torch.einsum("bnhwc,wkc->bnhwk", squares, relative_positions(W, rel_pos_w))
    return rel_h.flatten(2, 3), rel_w.flatten(2, 3)
