"""What the kernels of `MaskGenerator.detect` would take on an H200 that need not be there, for 1500 x 2250 pixels.

A launch is compiled for the arguments that it would have. Its time is the longest of three: instructions that its warps
issue, bytes that it reads and writes, products of its tensor cores. How often a loop runs follows from the arguments;
where masks are measured, from their logits. To add a kernel, say in `_WORK` how often its loops run, and its products,
and in `_EFFICIENCY` what is assumed of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.measured.compiled_kernels import CompiledKernel, Launch, compiled_instead_of_launched, image_side
from benchmarks.measured.mask_work import edges_iterations, measured_work
from sam_pipeline.masks.decoder.gpu.image_side import HOPPER
from sam_pipeline.masks.decoder.image_side import SharedTokens
from sam_pipeline.masks.full_resolution import triton_masks
from sam_pipeline.masks.full_resolution.composed_resize import composed_axis

SIZE, INPUT_SIZE = (1500, 2250), (683, 1024)
"""(H, W) of the image, and of the model input before padding."""
NUM_ROWS = 44
"""Rows of the image embedding that are upscaled: 43 with pixels, and one more."""
PROMPTS, PROMPTS_WITH_MASK, MASKS, SURVIVORS = 1024, 922, 1850, 91
TOKENS = 7
"""Of a prompt of one point: 5 of the decoder, the point, padding."""

_ISSUED_A_SECOND = 132 * 4 * 1.75e9
"""Instructions of warps: processors, schedulers of each, clock."""
_EFFICIENCY = {"_measure": 0.8, "_edges": 0.8}
_EFFICIENCY_OF_PRODUCTS = 0.55
"""Share of this rate that kernels reach: the two named, and all others. With these shares, earlier estimates for the
older kernels come out again: 2.5 ms for averaging image tokens after one layer, 4.4 after two, 2.4 for rebuilding them,
4.3 for measuring where 22 % of all 32 neighbouring cells are mixed. Where a processor has one or two programs, warps
wait more."""
_BYTES_A_SECOND = 0.8 * 4.0e12
_FLOP_A_SECOND = 800e12
"""Dense float16."""
_LAUNCH_MS = 0.002
"""Of the host's queue."""


class Work(NamedTuple):
    """What a launch does, all its programs together."""

    iterations: tuple[float, ...]
    """Of each loop of the code, in its order."""
    flop: float = 0
    """Of its products."""
    num_bytes: float | None = None
    """None: each argument once."""


class Estimate(NamedTuple):
    """Of a launch."""

    kernel: str
    programs: int
    warps: int
    instructions: float
    """That a warp executes, on average."""
    total_instructions: float
    """Of all warps."""
    num_bytes: float
    flop: float
    instruction_ms: float
    memory_ms: float
    product_ms: float

    @property
    def ms(self) -> float:
        """The longest of the three."""
        return max(self.instruction_ms, self.memory_ms, self.product_ms)


def estimate(launch: Launch, work: Work) -> Estimate:
    """Estimate one launch."""
    compiled = launch.compiled
    programs = 1
    for size in launch.grid:
        programs *= size
    warps = programs * compiled.num_warps
    total = compiled.num_warps * _executed(compiled, programs, work.iterations)
    tensors = (argument for argument in launch.arguments.values() if isinstance(argument, Tensor))
    num_bytes = work.num_bytes or sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    return Estimate(
        compiled.kernel, programs, warps, total / warps, total, num_bytes, work.flop,
        1000 * total / (_ISSUED_A_SECOND * _EFFICIENCY.get(compiled.kernel, _EFFICIENCY_OF_PRODUCTS)),
        1000 * num_bytes / _BYTES_A_SECOND,
        1000 * work.flop / _FLOP_A_SECOND,
    )  # fmt: skip


def estimate_image_side(capability: int = 90) -> list[Estimate]:
    """Estimate the launches of the mask decoder, in float16."""
    with compiled_instead_of_launched(capability) as launches:
        _decode()
    return [estimate(launch, _WORK[launch.compiled.kernel](launch)) for launch in launches]


def estimate_measuring(low_res_masks: Tensor, capability: int = 90) -> Estimate:
    """Estimate the launch that finds boxes and stability scores of `MASKS` masks.

    Args:
        low_res_masks: logits of some masks of an image of `SIZE`, (L, 4 * NUM_ROWS, 256); the others are taken to be
            like them.
        capability: compute capability.
    """
    rows, columns = (composed_axis(256, *lengths) for lengths in zip(INPUT_SIZE, SIZE, strict=True))
    with compiled_instead_of_launched(capability) as launches:
        triton_masks.measure_masks(low_res_masks.new_empty(MASKS, *low_res_masks.shape[1:]), rows, columns, 0.0, 1.0)
    (launch,) = launches
    found = measured_work(low_res_masks.numpy(), rows, columns, 1.0, launch.arguments)
    scale = MASKS / len(low_res_masks)
    num_bytes = launch.arguments["logits"].nbytes + 2 * 2 * found.mixed_cells * scale  # listed, and read again
    return estimate(launch, Work(tuple(count * scale for count in found.iterations), num_bytes=num_bytes))


def estimate_edges(low_res_masks: Tensor, capability: int = 90) -> list[Estimate]:
    """Estimate the two launches that find the runs of `SURVIVORS` masks; arguments as for `estimate_measuring`."""
    rows, columns = (composed_axis(256, *lengths) for lengths in zip(INPUT_SIZE, SIZE, strict=True))
    with compiled_instead_of_launched(capability) as launches:
        triton_masks.mask_edges(low_res_masks.new_empty(SURVIVORS, *low_res_masks.shape[1:]), rows, columns, 0.0)
    found = edges_iterations(low_res_masks.numpy(), rows, columns, launches[0].arguments["COLUMNS"])
    iterations = tuple(count * SURVIVORS / len(low_res_masks) for count in found)
    return [estimate(launch, Work(iterations)) for launch in launches]


def launches_ms(launches: int) -> float:
    """What launching takes where the device waits for it."""
    return _LAUNCH_MS * launches


def _executed(compiled: CompiledKernel, programs: int, iterations: Sequence[float]) -> float:
    """Instructions of a warp of each program, summed over programs."""
    assert len(iterations) == len(compiled.loops), f"{compiled.kernel} has other loops: {compiled.loops}"
    executed = float(programs * compiled.instructions)
    for (start, end), count in zip(compiled.loops, iterations, strict=True):
        around = [i for i, (s, e) in enumerate(compiled.loops) if s < start and end <= e]
        outer = iterations[around[-1]] if around else programs
        executed += (end - start) * (count - outer)  # once they are counted as part of what is around them
    return executed


def _tiles(launch: Launch, tokens: int) -> int:
    tile: int = launch.arguments["TILE"]
    return launch.grid[0] * -(-tokens // tile)


def _once(launch: Launch) -> Work:
    """Of a kernel without a loop: some small products of each prompt."""
    of = launch.arguments
    R, HD = of["H"] * of["TP"], of["H"] * of["D"]
    num_matrices = sum(name.endswith("_weight") for name in of)
    return Work((), 2.0 * launch.grid[0] * num_matrices * (R * HD * HD + R * R * HD))


def _weigh(launch: Launch) -> Work:
    of = launch.arguments
    R, HD = of["H"] * of["TP"], of["H"] * of["D"]
    wide, square = (2, 1) if "gram" in of else (4, 4)  # products with H * D channels, and with R vectors
    return _of_tokens(launch, wide * R * HD + square * R * R)


def _attend(launch: Launch) -> Work:
    of = launch.arguments
    R, RQ, HD = of["H"] * of["TP"], of["H"] * of["QP"], of["H"] * of["D"]
    layers = 1 if of["attention2"] is None else 2
    return _of_tokens(launch, 3 * RQ * HD + 2 * layers * R * RQ)


def _of_tokens(launch: Launch, multiplications: int) -> Work:
    tokens = launch.arguments["num_tokens"]
    return Work((_tiles(launch, tokens),), 2.0 * launch.grid[0] * tokens * multiplications)


def _upscale(launch: Launch) -> Work:
    of = launch.arguments
    quarters = 4 * PROMPTS_WITH_MASK * launch.grid[1]
    R, F, finest = of["R"], of["F"], 4 * of["G"]
    return Work((quarters,), quarters * 2.0 * of["TILE"] * (2 * R * F + F * finest + finest * 4 * of["MP"]))


_WORK: dict[str, Callable[[Launch], Work]] = {
    "fold_first": _once,
    "weigh_first": _weigh,
    "fold_second": _once,
    "weigh_second": _weigh,
    "attend": _attend,
    "upscale": _upscale,
}


def _decode() -> None:
    """The image side as the decoder calls it, on the meta device but for what chooses masks."""
    with torch.device("meta"):
        side = image_side(HOPPER)
        none = torch.empty(1)
        tokens = SharedTokens(torch.empty(4096, 256), (64, 64), none, none, torch.empty(8, 4096, 16))
        projected = torch.empty(PROMPTS, TOKENS, 128)
        state, _ = side.update_first(side.share(tokens), projected, projected, projected)
        state, _ = side.update_second(state, projected, projected, projected[:, :4])
    masks_before = torch.arange(PROMPTS)[:, None] * 3 + torch.arange(3)
    with_mask = (torch.arange(PROMPTS) < PROMPTS_WITH_MASK)[:, None]
    keep_mask = with_mask & ((masks_before % 3 < 2) | (masks_before < 3 * (MASKS - 2 * PROMPTS_WITH_MASK)))
    side.upscale(state, torch.empty(PROMPTS, 3, 32), keep_mask, (64, 64), NUM_ROWS)
