"""The ViT image encoder of SAM: a plain vision transformer with windowed attention in most of its blocks.

Reproduces segment_anything/modeling/image_encoder.py, itself the backbone of ViTDet (Li et al. 2022) with the
decomposed relative positions of MViTv2 (Li et al. 2021). Parameter names are the official ones.

Legend: B images (or windows), H W rows and columns of tokens, C channels, N heads.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

from sam_pipeline.model.layers import MLPBlock, Neck
from sam_pipeline.model.windows import window_partition, window_unpartition


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
        for block in self.blocks:
            x = block(x)
        x = self.neck(x.permute(0, 3, 1, 2))  # (B, out_chans, H, W)
        return x


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
        attended = self.norm1(x)
        if self.window_size > 0:
            windows = self.attn(window_partition(attended, self.window_size))
            attended = window_unpartition(windows, (x.shape[1], x.shape[2]))
        else:
            attended = self.attn(attended)
        x = x + attended
        x = x + self.mlp(self.norm2(x))
        return x


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
        self.scale = head_dim**-0.5
        self.qkv = nn.Linear(dim, dim * 3)
        self.proj = nn.Linear(dim, dim)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * size - 1, head_dim))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * size - 1, head_dim))

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens ``x`` (B, H, W, C) float to the same shape."""
        B, H, W, C = x.shape
        qkv = self.qkv(x).reshape(B, H * W, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.reshape(3, B * self.num_heads, H * W, -1).unbind(0)  # each (B * N, H * W, C / N)

        attn = (q * self.scale) @ k.transpose(-2, -1)  # (B * N, H * W, H * W)
        rel_h, rel_w = decomposed_rel_pos(q, self.rel_pos_h, self.rel_pos_w, (H, W))
        attn = (attn.view(-1, H, W, H, W) + rel_h + rel_w).view(-1, H * W, H * W).softmax(dim=-1)

        x = (attn @ v).view(B, self.num_heads, H, W, -1).permute(0, 2, 3, 1, 4).reshape(B, H, W, C)
        x = self.proj(x)
        return x


def relative_positions(size: int, table: Tensor) -> Tensor:
    """Look up the embedding of the offset between every query and key position of one axis.

    Args:
        size: positions on the axis.
        table: (2 * size - 1, C / N) float, entry ``i`` for offset ``i - (size - 1)``.

    Returns:
        (size, size, C / N): entry [query, key].
    """
    positions = torch.arange(size, device=table.device)
    return table[positions[:, None] - positions[None, :] + (size - 1)]


def decomposed_rel_pos(q: Tensor, rel_pos_h: Tensor, rel_pos_w: Tensor, hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Attention logits that depend on the offset between query and key, one term an axis (MViTv2, section 4.1).

    Args:
        q: (B * N, H * W, C / N) float, not scaled.
        rel_pos_h: (2 * H - 1, C / N) float.
        rel_pos_w: (2 * W - 1, C / N) float.
        hw: (H, W).

    Returns:
        The vertical term (B * N, H, W, H, 1) and the horizontal term (B * N, H, W, 1, W), to be added to the logits
        (B * N, H, W, H, W).
    """
    H, W = hw
    q = q.reshape(-1, H, W, q.shape[-1])
    rel_h = torch.einsum("bhwc,hkc->bhwk", q, relative_positions(H, rel_pos_h))
    rel_w = torch.einsum("bhwc,wkc->bhwk", q, relative_positions(W, rel_pos_w))
    return rel_h[:, :, :, :, None], rel_w[:, :, :, None, :]
