"""Triton's kernels as they are compiled for a GPU that need not be there, and what the compiled code says of them.

Registers and local memory come from ptxas, instructions from nvdisasm; both come with Triton. How many programs (CTAs)
fit on a multiprocessor follows from NVIDIA's table of each compute capability (CUDA C++ Programming Guide, "Technical
Specifications per Compute Capability").
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
import triton
from torch import nn
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import mangle_type

from sam_pipeline.masks.decoder.gpu import attention, folding, token_side, upscaling
from sam_pipeline.masks.decoder.gpu.image_side import HOPPER, OTHERS, Launches, TritonImageSide
from sam_pipeline.masks.decoder.gpu.token_side import TritonTokenSide
from sam_pipeline.masks.decoder.image_side import ImageSideAttentions, ImageSideWeights, SharedTokens
from sam_pipeline.masks.full_resolution import triton_masks
from sam_pipeline.masks.full_resolution.composed_resize import composed_axis
from sam_pipeline.model.networks import triton_blocks
from sam_pipeline.model.networks.image_encoder import Block
from sam_pipeline.model.networks.layers import LayerNorm2d
from sam_pipeline.model.networks.two_way_transformer import Attention
from sam_pipeline.model.sam import AbsentEncoder, assemble_sam

_TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
_REGISTERS = 64 * 1024
_WARPS = {75: 32, 80: 64, 86: 48, 89: 48, 90: 64}
_SHARED_BYTES = {75: 64 * 1024, 80: 164 * 1024, 86: 100 * 1024, 89: 100 * 1024, 90: 228 * 1024}
_RESERVED_SHARED_BYTES = 1024
"""Of each program, from compute capability 8.0 on."""


class CompiledKernel(NamedTuple):
    """A kernel, as compiled for the arguments of a launch."""

    kernel: str
    capability: int
    num_warps: int
    registers: int
    """Of a thread."""
    spilled_bytes: int
    """Of a thread: stack in local memory."""
    shared_bytes: int
    """Of a program."""
    programs: int
    """That fit on a multiprocessor at once; 0 if even one does not."""
    instructions: int
    loop_instructions: int
    """Of the longest loop; all, where there is none."""
    loops: tuple[tuple[int, int], ...]
    """Indices of each loop's first instruction and of the one after its last, in order of the first."""


class Launch(NamedTuple):
    """A launch that was compiled instead."""

    grid: tuple[int, ...]
    arguments: dict[str, Any]
    compiled: CompiledKernel


def compile_kernels(capability: int = 90) -> list[CompiledKernel]:
    """Compile every launch of the product for a compute capability, such as 90 for 9.0 (Hopper).

    Launches are those of an image of 700 x 700 pixels with prompts of one point, of three masks and of one, in float16.
    """
    with compiled_instead_of_launched(capability) as launches:
        _launch_all(HOPPER if capability >= 90 else OTHERS)
    return [launch.compiled for launch in launches]


@contextmanager
def compiled_instead_of_launched(capability: int) -> Iterator[list[Launch]]:
    """Meanwhile the product's kernels are compiled for a compute capability, and none is launched.

    Returns:
        A list that receives each launch. Tensors may be on the meta device.
    """
    launches: list[Launch] = []
    target = GPUTarget("cuda", capability, 32)
    with ExitStack() as stack:
        for module, names in (
            (folding, ("fold_first", "fold_second")),
            (attention, ("weigh_first", "weigh_second", "attend")),
            (upscaling, ("upscale",)),
            (token_side, ("embed_prompts", "add_norm", "head_layer")),
            (triton_masks, ("_measure", "_edges")),
            (triton_blocks, ("add_norm", "split_heads", "merge_heads")),
        ):
            for name in names:
                compiler = _Compiler(getattr(module, name), target, launches)
                stack.enter_context(mock.patch.object(module, name, compiler))
        # What no kernel fills must be numbers all the same.
        stack.enter_context(mock.patch.object(torch.Tensor, "new_empty", torch.Tensor.new_zeros))
        stack.enter_context(torch.inference_mode())
        yield launches


class _Compiler:
    """Takes the place of a kernel: compiles it for the arguments that it would be launched with."""

    def __init__(self, kernel: Any, target: GPUTarget, launches: list[Launch]) -> None:
        self._kernel, self._target, self._launches = kernel, target, launches

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return partial(self._compile, grid)

    def _compile(self, grid: tuple[int, ...], *args: Any, **kwargs: Any) -> None:
        names = self._kernel.arg_names
        options = {name: value for name, value in kwargs.items() if name not in names}
        arguments = dict(zip(names, args, strict=False)) | {k: v for k, v in kwargs.items() if k in names}
        constants = {name: value for name, value in arguments.items() if name in kwargs or value is None}
        signature = {
            name: "constexpr" if name in constants else mangle_type(value) for name, value in arguments.items()
        }
        unknown = {parameter.name for parameter in self._kernel.params if parameter.do_not_specialize}
        sixteens = {
            (index,): [["tt.divisibility", 16]]
            for index, name in enumerate(names)
            if signature[name].startswith("*")
            or (signature[name] == "i32" and name not in unknown and arguments[name] % 16 == 0)
        }
        source = ASTSource(self._kernel, signature, constants, sixteens)
        compiled = triton.compile(source, target=self._target, options=options)
        figures = _figures(self._kernel.__name__, self._target.arch, compiled)
        self._launches.append(Launch(grid, arguments, figures))


def _figures(name: str, capability: int, compiled: Any) -> CompiledKernel:
    num_warps, shared = compiled.metadata.num_warps, compiled.metadata.shared
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage, code = _tool("cuobjdump", "-res-usage", file.name), _tool("nvdisasm", "-c", file.name)
    registers, stack = (int(re.findall(rf"{word}:(\d+)", usage)[-1]) for word in ("REG", "STACK"))
    instructions, loops = _loops(code)
    longest = max((end - start for start, end in loops), default=instructions)
    return CompiledKernel(
        name, capability, num_warps, registers, stack, shared, _programs(capability, registers, num_warps, shared),
        instructions, longest, loops,
    )  # fmt: skip


def _tool(name: str, *arguments: str) -> str:
    return subprocess.run([_TOOLS / name, *arguments], check=True, capture_output=True, text=True).stdout


def _programs(capability: int, registers: int, num_warps: int, shared: int) -> int:
    """Programs on a multiprocessor: registers are given to a warp 256 at a time."""
    registers_a_warp = -(-registers * 32 // 256) * 256
    reserved = _RESERVED_SHARED_BYTES if capability >= 80 else 0
    return min(
        _REGISTERS // (registers_a_warp * num_warps),
        _WARPS[capability] // num_warps,
        _SHARED_BYTES[capability] // max(shared + reserved, 1),
    )


def _loops(code: str) -> tuple[int, tuple[tuple[int, int], ...]]:
    """Instructions of a program's code; its loops: from a label to the last jump back to it.

    Behind the program's end is code for threads of a warp that wait for others; it jumps back, but is no loop.
    """
    labels: dict[str, int] = {}
    loops: dict[int, int] = {}
    number, ended = 0, False
    for line in code.splitlines():
        if label := re.match(r"(\.L_x_\d+):", line.strip()):
            labels[label[1]] = number
        elif instruction := re.search(r"/\*[0-9a-f]{4,}\*/\s+(\S.*)", line):
            number += 1
            ended = ended or instruction[1].startswith("EXIT")
            jump = re.search(r"\bBRA\b.*`\((\.L_x_\d+)\)", line)
            if jump and jump[1] in labels and number - labels[jump[1]] > 1 and not ended:
                loops[labels[jump[1]]] = number
    return number, tuple(sorted(loops.items()))


def image_side(launches: Launches) -> TritonImageSide:
    """The mask decoder's image side in float16, with weights of zero, on torch's default device."""
    weights = ImageSideWeights(
        num_heads=8,
        attentions=ImageSideAttentions(*(Attention(256, 8, downsample_rate=2) for _ in range(4))),
        key_pe=torch.zeros(4096, 256),
        norms=(nn.LayerNorm(256), nn.LayerNorm(256)),
        up1=(torch.zeros(256, 256), torch.zeros(256)),
        up_norm=LayerNorm2d(64),
        up2=(torch.zeros(64, 128), torch.zeros(128)),
    )
    return TritonImageSide(weights, torch.float16, launches)


def _launch_all(launches: Launches) -> None:
    side = image_side(launches)
    tokens = SharedTokens(torch.zeros(4096, 256), (64, 64), torch.zeros(1), torch.zeros(1), torch.zeros(8, 4096, 16))
    projected = torch.zeros(2, 7, 128)
    first, _ = side.update_first(side.share(tokens), projected, projected, projected)
    for num_masks in (3, 1):
        state, _ = side.update_second(first, projected, projected, projected[:, : 1 + num_masks])
        side.upscale(state, torch.zeros(2, num_masks, 32), torch.ones(2, num_masks, dtype=torch.bool), (64, 64), 44)
    axis = composed_axis(256, 1024, 700)
    triton_masks.measure_masks(torch.zeros(2, 256, 256), axis, axis, 0.0, 1.0)
    triton_masks.mask_edges(torch.zeros(2, 256, 256), axis, axis, 0.0)
    _launch_encoder()
    _launch_tokens()


def _launch_encoder() -> None:
    """A windowed block of ViT-H and a global one, without the products: on the meta device."""
    with torch.device("meta"):
        blocks = [Block(1280, 16, 5120, window_size=size, tokens=64) for size in (14, 0)]
        triton_blocks.run_blocks(torch.empty(1, 64, 64, 1280), blocks, torch.float16)


def _launch_tokens() -> None:
    """The tokens of points and of boxes in all steps, without the products: on the meta device."""
    with torch.device("meta"):
        sam = assemble_sam(AbsentEncoder(img_size=1024)).eval().requires_grad_(False).to("meta")
        side = TritonTokenSide(sam, torch.float16)
        keys = torch.empty(8, 4096, 16, dtype=torch.float16)
        image = SharedTokens(torch.empty(4096, 256), (64, 64), keys, keys, torch.empty(8, 4096, 16))
        side.embed(None, torch.empty(2, 4))
        side.embed((torch.empty(2, 1, 2), torch.empty(2, 1)), torch.empty(2, 4))
        pe = side.embed((torch.empty(2, 2, 2, dtype=torch.float64), torch.empty(2, 2, dtype=torch.int32)), None)
        read = side.read(multimask_output=True)
        tokens, _, _, queries = side.first(pe, image)
        tokens, _, _, queries = side.second(tokens, queries, pe, read)
        side.final(tokens, queries, read)
