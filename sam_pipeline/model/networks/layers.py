"""Small layers that the encoders, the prompt encoder and the mask decoder share.

Legend: B images or prompts, C channels, H W rows and columns of a feature map.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam_pipeline.model.networks.linear import Activation, Linear, linear


def computes_as_its_type(module: nn.Module) -> bool:
    """Whether a module runs its class's forward: scripts may have hooked, replaced or compiled it."""
    is_compiled = module._compiled_call_impl is not None
    return not (module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module) or is_compiled)


def activation_of(act: nn.Module) -> Activation | None:
    """The activation's name, if the layer before it can apply it in the same kernel; None if it must be called."""
    if not computes_as_its_type(act):
        return None
    if type(act) is nn.GELU and act.approximate == "none":
        return "gelu"
    return "relu" if type(act) is nn.ReLU else None


def activated(layer: nn.Module, act: nn.Module, x: Tensor) -> Tensor:
    """An activation of a linear layer, act(layer(x)), without a pass over the result where that can be."""
    activation = activation_of(act)
    if type(layer) is not Linear or not computes_as_its_type(layer) or activation is None:
        y: Tensor = act(layer(x))
        return y
    return linear(x, layer.weight, layer.bias, activation)


class LayerNorm2d(nn.Module):
    """Layer norm over the channels of a feature map, one mean and variance a position.

    Reproduces ``LayerNorm2d`` of segment_anything/modeling/common.py.

    Args:
        num_channels: C.
        eps: added to the variance.
    """

    def __init__(self, num_channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_channels))
        self.bias = nn.Parameter(torch.zeros(num_channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x`` (B, C, H, W) float over C; same shape, and the dtype of x or of the weights, the wider."""
        if x.dtype.itemsize > 2:
            return self._normalised(x)
        # In the necks some values exceed 256, so their squares exceed float16's range: the variance would be infinite,
        # and the result only the bias, which is finite and wrong.
        return self._normalised(x.float()).to(torch.promote_types(x.dtype, self.weight.dtype))

    def _normalised(self, x: Tensor) -> Tensor:
        centred = x - x.mean(1, keepdim=True)
        variance = centred.pow(2).mean(1, keepdim=True)
        return self.weight[:, None, None] * (centred / torch.sqrt(variance + self.eps)) + self.bias[:, None, None]


class MLPBlock(nn.Module):
    """Two linear layers around an activation: the feed-forward half of a transformer block.

    Reproduces ``MLPBlock`` of segment_anything/modeling/common.py.

    Args:
        embedding_dim: channels in and out.
        mlp_dim: channels between the layers.
        act: activation class, GELU in the image encoder and ReLU in the mask decoder.
    """

    def __init__(self, embedding_dim: int, mlp_dim: int, act: type[nn.Module] = nn.GELU) -> None:
        super().__init__()
        self.lin1 = Linear(embedding_dim, mlp_dim)
        self.lin2 = Linear(mlp_dim, embedding_dim)
        self.act = act()

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` (..., embedding_dim) float to the same shape."""
        x = self.lin2(activated(self.lin1, self.act, x))
        return x


class MLP(nn.Module):
    """Linear layers with ReLU between them, none after the last: the heads of the mask decoder.

    Reproduces ``MLP`` of segment_anything/modeling/mask_decoder.py.

    Args:
        input_dim: channels in.
        hidden_dim: channels of every layer but the last.
        output_dim: channels out.
        num_layers: linear layers in all.
    """

    def __init__(self, input_dim: int, hidden_dim: int, output_dim: int, num_layers: int) -> None:
        super().__init__()
        dims = [input_dim, *[hidden_dim] * (num_layers - 1), output_dim]
        self.layers = nn.ModuleList(Linear(before, after) for before, after in itertools.pairwise(dims))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` (..., input_dim) float to (..., output_dim)."""
        *hidden, last = self.layers
        for layer in hidden:
            x = F.relu(layer(x))
        x = last(x)
        return x


class Neck(nn.Sequential):
    """From the encoder's channels to the embedding's: 1×1 and 3×3 convolutions, each with a layer norm.

    The last four layers of ``ImageEncoderViT`` and of MobileSAM's ``TinyViT``.

    Args:
        in_chans: channels of the last transformer block.
        out_chans: channels of the image embedding.
    """

    def __init__(self, in_chans: int, out_chans: int) -> None:
        super().__init__(
            nn.Conv2d(in_chans, out_chans, kernel_size=1, bias=False),
            LayerNorm2d(out_chans),
            nn.Conv2d(out_chans, out_chans, kernel_size=3, padding=1, bias=False),
            LayerNorm2d(out_chans),
        )
