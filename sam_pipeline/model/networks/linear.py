"""Linear maps and convolutions by the fastest kernels that torch carries for CPUs, with the activation after them.

In float32 on a CPU, torch gives matrix products to MKL, which leaves half the speed of an AMD processor with AVX-512
unused (92 against 190 GFLOP/s a core). oneDNN does not, and torch has its linear map and its convolution as operators
without gradients. They also apply an activation to what they have just computed, instead of in a pass of its own.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Activation = Literal["none", "gelu", "relu"]

# What torch.compile makes of these layers on a CPU; not in every build of torch (on ARM, say).
_ONEDNN_LINEAR = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
_ONEDNN_CONVOLUTION = getattr(torch.ops.mkldnn, "_convolution_pointwise", None)
# Subclasses, such as quantized weights, have products of their own.
_PLAIN = (Tensor, nn.Parameter)
# GELU by the error function, not by tanh.
_ALGORITHM = {"none": "", "gelu": "none", "relu": ""}


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: Activation = "none") -> Tensor:
    """The same map as ``torch.nn.functional.linear``, up to rounding.

    Args:
        x: (..., in) float.
        weight: (out, in) float.
        bias: (out,) float.
        activation: what follows it.

    Returns:
        (..., out) float.
    """
    if _ONEDNN_LINEAR is None or type(weight) not in _PLAIN or not _is_inference_on_cpu(x):
        return _activate(F.linear(x, weight, bias), activation)
    y: Tensor = _ONEDNN_LINEAR(x, weight, bias, activation, [], _ALGORITHM[activation])
    return y


def convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    stride: int = 1,
    padding: int = 0,
    groups: int = 1,
    activation: Activation = "none",
) -> Tensor:
    """The same map as ``torch.nn.functional.conv2d``, up to rounding; the result is laid out as x is.

    Args:
        x: (B, in, H, W) float.
        weight: (out, in / groups, rows, columns) float.
        bias: (out,) float.
        stride: step along both axes.
        padding: zeros on all sides.
        groups: ``in`` makes it depthwise.
        activation: what follows it.

    Returns:
        (B, out, H / stride, W / stride) float.
    """
    if _ONEDNN_CONVOLUTION is None or not _is_inference_on_cpu(x):
        return _activate(F.conv2d(x, weight, bias, stride, padding, groups=groups), activation)
    y: Tensor = _ONEDNN_CONVOLUTION(
        x, weight, bias, [padding] * 2, [stride] * 2, [1, 1], groups, activation, [], _ALGORITHM[activation]
    )
    return y


def _activate(x: Tensor, activation: Activation) -> Tensor:
    if activation == "gelu":
        return F.gelu(x)
    return F.relu(x) if activation == "relu" else x


def _is_inference_on_cpu(x: Tensor) -> bool:
    # In half types, which are what autocast is for, torch gives products to oneDNN by itself.
    is_float32_on_cpu = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return is_float32_on_cpu and not torch.is_grad_enabled() and not _is_being_exported()


def _is_being_exported() -> bool:
    # Exports (TorchScript, torch.export, ONNX) get plain layers: other programs lack torch's oneDNN operators.
    return torch.jit.is_tracing() or torch.compiler.is_exporting()  # type: ignore[attr-defined, no-untyped-call]


class Linear(nn.Linear):
    """``torch.nn.Linear`` with the product above; parameters and names are the same."""

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` (..., in) float to (..., out) float."""
        return linear(x, self.weight, self.bias)
