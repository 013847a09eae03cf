"""Linear maps by the faster of the two matrix products that torch carries for CPUs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The same map as ``torch.nn.functional.linear``, up to rounding.

    In float32 on a CPU, torch gives matrix products to MKL and convolutions to oneDNN. MKL leaves half the speed of an
    AMD processor with AVX-512 unused (92 against 190 GFLOP/s a core), so there the map is written as a convolution with
    a 1×1 kernel, whose channels-last layout is that of ``x`` already.

    Args:
        x: (..., in) float.
        weight: (out, in) float.
        bias: (out,) float.

    Returns:
        (..., out) float.
    """
    if not _is_for_onednn(x):
        return F.linear(x, weight, bias)
    pixels = x.reshape(1, -1, 1, x.shape[-1]).permute(0, 3, 1, 2)  # (1, in, rows, 1)
    # By name, since conv2d leaves single threads and small maps to MKL again.
    y = torch.mkldnn_convolution(
        pixels, weight[:, :, None, None], bias, padding=(0, 0), stride=(1, 1), dilation=(1, 1), groups=1
    )  # (1, out, rows, 1)
    return y.permute(0, 2, 3, 1).reshape(*x.shape[:-1], len(weight))


def _is_for_onednn(x: Tensor) -> bool:
    # In bfloat16, which is what autocast is for, torch gives matrix products to oneDNN by itself.
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    )


class Linear(nn.Linear):
    """``torch.nn.Linear`` with the product above; parameters and names are the same."""

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` (..., in) float to (..., out) float."""
        return linear(x, self.weight, self.bias)
