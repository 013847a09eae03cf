"""Linear maps by the faster of the two matrix products that torch carries for CPUs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# What torch.compile makes of linear layers on a CPU; not in every build of torch (on ARM, say).
_ONEDNN_LINEAR = getattr(torch.ops.mkldnn, "_linear_pointwise", None)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, relu: bool = False) -> Tensor:
    """The same map as ``torch.nn.functional.linear``, up to rounding, and perhaps a ReLU.

    In float32 on a CPU, torch gives matrix products to MKL, which leaves half the speed of an AMD processor with
    AVX-512 unused (92 against 190 GFLOP/s a core). oneDNN does not, and torch has its linear map as an operator without
    gradients.

    Args:
        x: (..., in) float.
        weight: (out, in) float.
        bias: (out,) float.
        relu: what is negative becomes zero.

    Returns:
        (..., out) float.
    """
    if _ONEDNN_LINEAR is None or torch.is_grad_enabled() or not _is_float32_on_cpu(x) or _is_being_exported():
        y: Tensor = F.linear(x, weight, bias)
        return y.relu_() if relu else y
    y = _ONEDNN_LINEAR(x, weight, bias, "relu" if relu else "none", [], "")
    return y


def _is_float32_on_cpu(x: Tensor) -> bool:
    # In bfloat16, which is what autocast is for, torch gives matrix products to oneDNN by itself.
    return x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")


def _is_being_exported() -> bool:
    # Other programs know nothing of torch's operator: to TorchScript, torch.export or ONNX goes a plain linear map.
    return torch.jit.is_tracing() or torch.compiler.is_exporting()  # type: ignore[attr-defined, no-untyped-call]


class Linear(nn.Linear):
    """``torch.nn.Linear`` with the product above; parameters and names are the same."""

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` (..., in) float to (..., out) float."""
        return linear(x, self.weight, self.bias)
