"""Compile every launch of the Triton kernels for a GPU that need not be there.

    python -m tests.masks.full_resolution.triton_compilation

Prints a line of JSON for each: the name of the kernel and the shared memory of a program, in bytes.
"""

from __future__ import annotations

import json
from types import ModuleType
from typing import Any

import torch
import triton
from torch import nn
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import mangle_type

from sam_pipeline.masks.decoder import triton_image_side, triton_kernels
from sam_pipeline.masks.decoder.image_side import ImageSideAttentions, ImageSideWeights, SharedTokens
from sam_pipeline.masks.full_resolution import triton_masks
from sam_pipeline.masks.full_resolution.composed_resize import composed_axis
from sam_pipeline.model.networks.layers import LayerNorm2d
from sam_pipeline.model.networks.two_way_transformer import Attention

HOPPER = GPUTarget("cuda", 90, 32)


class Compiled:
    """Takes the place of a kernel: compiles it for the arguments that it would be launched with."""

    def __init__(self, kernel: Any) -> None:
        self._kernel = kernel

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return self._compile

    def _compile(self, *args: Any, **kwargs: Any) -> None:
        names = self._kernel.arg_names
        options = {name: value for name, value in kwargs.items() if name not in names}
        arguments = dict(zip(names, args, strict=False)) | {k: v for k, v in kwargs.items() if k in names}
        constants = {name: value for name, value in arguments.items() if name in kwargs or value is None}
        signature = {
            name: "constexpr" if name in constants else mangle_type(value) for name, value in arguments.items()
        }
        sixteens = {
            (index,): [["tt.divisibility", 16]]
            for index, name in enumerate(names)
            if signature[name].startswith("*") or (signature[name] == "i32" and arguments[name] % 16 == 0)
        }
        source = ASTSource(self._kernel, signature, constants, sixteens)
        compiled = triton.compile(source, target=HOPPER, options=options)
        print(json.dumps({"kernel": self._kernel.__name__, "shared": compiled.metadata.shared}))  # noqa: T201  read by the test


def compile_all() -> None:
    for module, names in ((triton_kernels, ("average", "rebuild", "upscale")), (triton_masks, ("_measure", "_edges"))):
        _replace(module, names)
    weights = ImageSideWeights(
        num_heads=8,
        attentions=ImageSideAttentions(*(Attention(256, 8, downsample_rate=2) for _ in range(4))),
        key_pe=torch.zeros(4096, 256),
        norms=(nn.LayerNorm(256), nn.LayerNorm(256)),
        up1=(torch.zeros(256, 256), torch.zeros(256)),
        up_norm=LayerNorm2d(64),
        up2=(torch.zeros(64, 128), torch.zeros(128)),
    )
    side = triton_image_side.TritonImageSide(weights, torch.bfloat16)
    shared = SharedTokens(torch.zeros(4096, 256), (64, 64), torch.zeros(1), torch.zeros(1), torch.zeros(4096, 128))
    rows = torch.zeros(2, 56, 256)
    state, _ = side.first_layer(shared, rows[..., :128], rows, rows)
    state, _ = side.second_layer(state, rows, rows[..., 0], rows, rows)
    side.upscale(state, torch.zeros(2, 3, 32), torch.ones(2, 3, dtype=torch.bool), (64, 64), 44)
    axis = composed_axis(256, 1024, 700)
    triton_masks.measure_masks(torch.zeros(2, 256, 256), axis, axis, 0.0, 1.0)
    triton_masks.mask_edges(torch.zeros(2, 256, 256), axis, axis, 0.0)


def _replace(module: ModuleType, names: tuple[str, ...]) -> None:
    for name in names:
        setattr(module, name, Compiled(getattr(module, name)))


if __name__ == "__main__":
    with torch.inference_mode():
        compile_all()
