"""TinyViT, the image encoder of MobileSAM.

Reproduces MobileSAM's modeling/tiny_vit_sam.py (Zhang et al. 2023), a TinyViT-5M (Wu et al. 2022) whose last stage
keeps the resolution, so that its embedding has the size of the ViT encoders'. Parameter names are the official ones.
Inference only: stochastic depth and dropout have rate zero in MobileSAM and are left out.

Legend: B images, C channels, H W rows and columns of a feature map, S window size, N heads.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam_pipeline.model.networks.conv_bn import ConvBN, activated_norm, is_fused
from sam_pipeline.model.networks.layers import Neck, activated, computes_as_its_type
from sam_pipeline.model.networks.linear import Linear
from sam_pipeline.model.networks.windows import window_partition, window_unpartition

_ROWS_AT_ONCE = 16
"""Rows of a band of an inverted residual block, on CPUs."""


class TinyViT(nn.Module):
    """Turns a normalised, padded square image into its embedding; the defaults are MobileSAM's.

    The stem and each of the first two stages halve the resolution (the stem twice), so the embedding has
    ``img_size / 16`` rows.

    Args:
        img_size: side of the square input, pixels.
        in_chans: channels of the image.
        num_classes: outputs of the classification head, which is loaded and never run.
        embed_dims: C of each of the four stages.
        depths: blocks of each stage.
        num_heads: N of each stage; the first is convolutional and has none.
        window_sizes: S of each stage; likewise.
        mlp_ratio: width of the feed-forward layer over C; also the expansion of the convolutional blocks.
        out_chans: channels of the embedding.
    """

    def __init__(
        self,
        img_size: int = 1024,
        in_chans: int = 3,
        num_classes: int = 1000,
        embed_dims: Sequence[int] = (64, 128, 160, 320),
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (2, 4, 5, 10),
        window_sizes: Sequence[int] = (7, 7, 14, 7),
        mlp_ratio: float = 4.0,
        out_chans: int = 256,
    ) -> None:
        super().__init__()
        self.img_size = img_size
        self.patch_embed = PatchEmbed(in_chans, embed_dims[0])
        # MobileSAM keeps the resolution before the last stage.
        downsamples = [
            PatchMerging(dim, out_dim, stride)
            for (dim, out_dim), stride in zip(itertools.pairwise(embed_dims), (2, 2, 1), strict=True)
        ]
        stages: list[Stage] = []
        for index, (dim, depth) in enumerate(zip(embed_dims, depths, strict=True)):
            blocks: list[nn.Module] = [
                MBConv(dim, mlp_ratio)
                if index == 0
                else TinyViTBlock(dim, num_heads[index], window_sizes[index], mlp_ratio)
                for _ in range(depth)
            ]
            stages.append(Stage(blocks, downsamples[index] if index < len(downsamples) else None))
        self.layers = nn.ModuleList(stages)
        # MobileSAM's file carries the classification head that TinyViT was pretrained with; having it here keeps
        # loading strict.
        self.norm_head = nn.LayerNorm(embed_dims[-1])
        self.head = nn.Linear(embed_dims[-1], num_classes)
        self.neck = Neck(embed_dims[-1], out_chans)

    def forward(self, x: Tensor) -> Tensor:
        """Embed images.

        Args:
            x: (B, 3, img_size, img_size) float, normalised and padded, in the frame of the model input.

        Returns:
            Image embeddings, (B, out_chans, img_size / 16, img_size / 16) float.
        """
        if x.device.type == "cpu":
            # With channels last, depthwise convolutions take a third of the time, and no block changes the layout.
            x = x.contiguous(memory_format=torch.channels_last)
        x = self.patch_embed(x)  # (B, C, img_size / 4, img_size / 4)
        for stage in self.layers:
            x = stage(x)
        x = self.neck(x)
        return x


class PatchEmbed(nn.Module):
    """The stem: two strided convolutions, to a quarter of the resolution.

    Args:
        in_chans: channels of the image.
        embed_dim: C of the first stage.
    """

    def __init__(self, in_chans: int, embed_dim: int) -> None:
        super().__init__()
        self.seq = nn.Sequential(
            ConvBN(in_chans, embed_dim // 2, kernel_size=3, stride=2),
            nn.GELU(),
            ConvBN(embed_dim // 2, embed_dim, kernel_size=3, stride=2),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` (B, in_chans, pixels, pixels) float to (B, embed_dim, pixels / 4, pixels / 4)."""
        if not computes_as_its_type(self.seq) or len(self.seq) != 3:
            x = self.seq(x)
            return x
        first, act, second = self.seq
        x = second(activated_norm(first, act, x))
        return x


class Stage(nn.Module):
    """Blocks at one resolution, then the step to the next.

    Args:
        blocks: applied in order, each (B, C, H, W) to the same shape.
        downsample: applied last; None in the last stage.
    """

    def __init__(self, blocks: Sequence[nn.Module], downsample: PatchMerging | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` (B, C, H, W) float to the next stage's shape."""
        for block in self.blocks:
            x = block(x)
        if self.downsample is not None:
            x = self.downsample(x)
        return x


class MBConv(nn.Module):
    """Inverted residual block of the first stage: widen, depthwise 3×3, narrow.

    Args:
        dim: C.
        expand_ratio: width of the depthwise convolution over C.
    """

    def __init__(self, dim: int, expand_ratio: float) -> None:
        super().__init__()
        hidden = int(dim * expand_ratio)
        self.conv1 = ConvBN(dim, hidden)
        self.conv2 = ConvBN(hidden, hidden, kernel_size=3, groups=hidden)
        self.conv3 = ConvBN(hidden, dim)
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` (B, C, H, W) float to the same shape."""
        layers = (self.conv1, self.conv2, self.conv3)
        if x.device.type != "cpu" or not all(is_fused(layer, self.act) for layer in layers):
            return self._rows(x, 0, x.shape[2])
        # The wide channels of some rows stay in the third-level cache.
        H = x.shape[2]
        bands = [self._rows(x, first, min(first + _ROWS_AT_ONCE, H)) for first in range(0, H, _ROWS_AT_ONCE)]
        return torch.cat(bands, dim=2)

    def _rows(self, x: Tensor, first: int, last: int) -> Tensor:
        """Compute some rows of the result."""
        above = max(first - 1, 0)  # the depthwise convolution sees a row more on each side
        y = activated_norm(self.conv1, self.act, x[:, :, above : last + 1])
        y = activated_norm(self.conv2, self.act, y)[:, :, first - above :][:, :, : last - first]
        # The activation comes after the shortcut is added, unlike in MobileNetV2.
        z: Tensor = self.act(self.conv3(y) + x[:, :, first:last])
        return z


class PatchMerging(nn.Module):
    """Changes the number of channels and, with stride 2, halves the resolution.

    Args:
        dim: channels in.
        out_dim: channels out.
        stride: of the depthwise convolution.
    """

    def __init__(self, dim: int, out_dim: int, stride: int) -> None:
        super().__init__()
        self.conv1 = ConvBN(dim, out_dim)
        self.conv2 = ConvBN(out_dim, out_dim, kernel_size=3, stride=stride, groups=out_dim)
        self.conv3 = ConvBN(out_dim, out_dim)
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` (B, dim, H, W) float to (B, out_dim, H / stride, W / stride)."""
        x = activated_norm(self.conv2, self.act, activated_norm(self.conv1, self.act, x))
        x = self.conv3(x)
        return x


class TinyViTBlock(nn.Module):
    """Windowed attention, a depthwise convolution that joins the windows, and a feed-forward layer.

    Args:
        dim: C.
        num_heads: N.
        window_size: S.
        mlp_ratio: width of the feed-forward layer over C.
    """

    def __init__(self, dim: int, num_heads: int, window_size: int, mlp_ratio: float) -> None:
        super().__init__()
        self.window_size = window_size
        self.attn = Attention(dim, num_heads, window_size)
        self.local_conv = ConvBN(dim, dim, kernel_size=3, groups=dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` (B, C, H, W) float to the same shape."""
        x = x.permute(0, 2, 3, 1)  # (B, H, W, C)
        windows = window_partition(x, self.window_size)
        attended = self.attn(windows.flatten(1, 2)).view_as(windows)
        x = x + window_unpartition(attended, (x.shape[1], x.shape[2]))
        x = self.local_conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)  # no shortcut around the convolution
        x = x + self.mlp(x)
        return x.permute(0, 3, 1, 2)  # (B, C, H, W)


class Attention(nn.Module):
    """Multi-head self-attention in a window, with one learned bias a head for each distance between two tokens.

    Args:
        dim: C.
        num_heads: N.
        window_size: S.
    """

    attention_bias_idxs: Tensor

    def __init__(self, dim: int, num_heads: int, window_size: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(dim)
        self.qkv = Linear(dim, dim * 3)
        self.proj = Linear(dim, dim)
        self.attention_biases = nn.Parameter(torch.zeros(num_heads, window_size**2))
        # Explicitly on the CPU: the registry builds networks on the meta device, and no checkpoint fills this buffer.
        self.register_buffer("attention_bias_idxs", distance_indexes(window_size, "cpu"), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens ``x`` (windows, S * S, C) float to the same shape."""
        B, L, C = x.shape
        # Query, key and value of one head lie side by side, unlike in the ViT encoder.
        qkv = self.qkv(self.norm(x)).view(B, L, self.num_heads, -1)
        q, k, v = qkv.permute(0, 2, 1, 3).chunk(3, dim=-1)  # each (windows, N, S * S, C / N)
        biases = self.attention_biases[:, self.attention_bias_idxs].to(q.dtype)  # (N, S * S, S * S)
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=biases.expand(B, -1, -1, -1))
        x = self.proj(x.transpose(1, 2).reshape(B, L, C))
        return x


class Mlp(nn.Module):
    """Feed-forward layer with its own norm before it.

    Args:
        dim: C.
        hidden_dim: channels between the layers.
    """

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.fc1 = Linear(dim, hidden_dim)
        self.fc2 = Linear(hidden_dim, dim)
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` (..., C) float to the same shape."""
        x = self.fc2(activated(self.fc1, self.act, self.norm(x)))
        return x


def distance_indexes(window_size: int, device: str) -> Tensor:
    """Number the distances between the tokens of a window as the official weights order them.

    Args:
        window_size: S.
        device: where to put the result.

    Returns:
        (S * S, S * S) int64: S * rows apart + columns apart, for each pair of tokens in row-major order.
    """
    row, column = torch.meshgrid(*[torch.arange(window_size, device=device)] * 2, indexing="ij")
    rows_apart = (row.flatten()[:, None] - row.flatten()[None, :]).abs()
    columns_apart = (column.flatten()[:, None] - column.flatten()[None, :]).abs()
    return window_size * rows_apart + columns_apart
