"""Cutting a feature map into square windows and putting it together again, for windowed attention.

Legend: B images, C channels, H W rows and columns of tokens, S window size.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def window_partition(x: Tensor, window_size: int, padding: Tensor | None = None) -> Tensor:
    """Cut a feature map into windows, after padding at the bottom and right to a multiple of the window size.

    SAM's 64×64 tokens become 70×70, so 25 windows of 14×14. The padding takes part in attention as ordinary zero
    tokens (the official networks do not mask it), which is why its exact place matters.

    Args:
        x: (B, H, W, C) float.
        window_size: S.
        padding: (C,) float, what a padded position holds; zeros by default.

    Returns:
        (B * windows, S, S, C), windows of an image in row-major order.
    """
    B, H, W, C = x.shape
    x = F.pad(x, (0, 0, 0, -W % window_size, 0, -H % window_size))
    if padding is not None:
        x[:, H:] = padding
        x[:, :, W:] = padding
    rows, columns = x.shape[1] // window_size, x.shape[2] // window_size
    x = x.view(B, rows, window_size, columns, window_size, C)
    return x.transpose(2, 3).reshape(B * rows * columns, window_size, window_size, C)


def window_unpartition(windows: Tensor, hw: tuple[int, int]) -> Tensor:
    """Undo ``window_partition``: put the windows in their places and cut the padding off.

    Args:
        windows: (B * windows, S, S, C) float.
        hw: (H, W) before partition.

    Returns:
        (B, H, W, C).
    """
    H, W = hw
    _, window_size, _, C = windows.shape
    rows, columns = -(-H // window_size), -(-W // window_size)
    x = windows.view(-1, rows, columns, window_size, window_size, C).transpose(2, 3)
    x = x.reshape(-1, rows * window_size, columns * window_size, C)
    return x[:, :H, :W].contiguous()
