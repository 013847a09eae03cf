"""A convolution with its batch norm and the activation after it, computed at once where that can be.

Legend: B images, C channels, H W rows and columns of a feature map.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sam_pipeline.model.networks.layers import activation_of, computes_as_its_type
from sam_pipeline.model.networks.linear import Activation, convolution, linear


class ConvBN(nn.Sequential):
    """A convolution without bias, then batch norm.

    Args:
        in_chans: channels in.
        out_chans: channels out.
        kernel_size: side of the kernel; padding keeps the resolution at stride 1.
        stride: step.
        groups: ``in_chans`` makes it depthwise.
    """

    def __init__(self, in_chans: int, out_chans: int, kernel_size: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.c = nn.Conv2d(in_chans, out_chans, kernel_size, stride, kernel_size // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(out_chans)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` (B, in_chans, H, W) float to (B, out_chans, H / stride, W / stride)."""
        if self.can_be_folded():
            return self.folded(x, "none")
        x = self.bn(self.c(x))
        return x

    def can_be_folded(self) -> bool:
        """Whether the norm's statistics are fixed (inference), and no script has replaced or hooked conv or norm."""
        is_inference = not (self.training or self.bn.training or torch.is_grad_enabled())
        are_own = type(self.c) is nn.Conv2d and type(self.bn) is nn.BatchNorm2d and len(self) == 2
        return is_inference and are_own and all(map(computes_as_its_type, self.children()))

    def folded(self, x: Tensor, activation: Activation) -> Tensor:
        """The same with the norm folded into the convolution, then an activation, if it `can_be_folded`."""
        # Norms of fixed mean and variance are linear: they become part of the kernel, and no pass over the result.
        mean, variance = self.bn.running_mean, self.bn.running_var
        assert mean is not None
        assert variance is not None
        scale = self.bn.weight * (variance + self.bn.eps).rsqrt()
        kernel = self.c.weight * scale[:, None, None, None]
        bias = self.bn.bias - mean * scale
        if self.c.kernel_size == (1, 1) and x.device.type == "cpu":
            return linear(x.permute(0, 2, 3, 1), kernel[:, :, 0, 0], bias, activation).permute(0, 3, 1, 2)
        return convolution(x, kernel, bias, self.c.stride[0], self.c.kernel_size[0] // 2, self.c.groups, activation)


def activated_norm(layer: nn.Module, act: nn.Module, x: Tensor) -> Tensor:
    """An activation of a `ConvBN`, act(layer(x)), without a pass over the result where that can be."""
    if not is_fused(layer, act):
        y: Tensor = act(layer(x))
        return y
    activation = activation_of(act)
    assert isinstance(layer, ConvBN)
    assert activation is not None
    return layer.folded(x, activation)


def is_fused(layer: nn.Module, act: nn.Module) -> bool:
    """Whether `activated_norm` computes both at once."""
    is_own = type(layer) is ConvBN and computes_as_its_type(layer) and layer.can_be_folded()
    return is_own and activation_of(act) is not None
