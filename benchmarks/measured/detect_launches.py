"""Launches, copies and waits of `MaskGenerator.detect` on a GPU that need not be there, by the function that made them.

The real code runs on the meta device, in the form that it has on a Hopper GPU in float16: one image, all prompts in
one call of the decoder. Triton's kernels are counted instead of being launched. What comes from the device is made up:
every number is 1, so that one candidate survives.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sam_pipeline.config import MaskConfig
from sam_pipeline.masks import generator
from sam_pipeline.masks.decoder.gpu.image_side import TritonImageSide
from sam_pipeline.masks.decoder.gpu.token_side import TritonTokenSide
from sam_pipeline.masks.decoder.image_side import ImageSideWeights
from sam_pipeline.masks.decoder.shared_decoder import SharedDecoder
from sam_pipeline.masks.full_resolution import upscaling
from sam_pipeline.model.sam import AbsentEncoder, assemble_sam

_PACKAGE = str(Path(generator.__file__).parents[1])

_PARTS = {
    "gpu/token_side.py": "tokens",
    "decoder/gpu": "image side",
    "low_rank.py": "image side",
    "shared_decoder.py": "tokens",
    "token_side.py": "tokens",
    "prompt_encoder.py": "tokens",
    "full_resolution": "full resolution",
}
"""Of which part a launch is, by the file of the function, of ours, that is nearest to it and in this list."""

_LAUNCHES = {"baddbmm": 2, "cumsum": 2}
"""Of operations that take more than one: a bias is first copied into the result; a scan over blocks has two passes."""


class Site(NamedTuple):
    """What one function of ours does."""

    part: str
    function: str
    launches: int
    """Kernels, also those of torch's operations."""
    copies: int
    """Between host and device."""
    waits: int
    """For the device: until a copy is there, or a number."""


class DetectCounts(NamedTuple):
    """Of an image."""

    sites: list[Site]
    operations: dict[str, Counter[str]]
    """Launches of each part by operation."""


def trace_detect(points_per_side: int = 32, image_size: tuple[int, int] = (1500, 2250)) -> DetectCounts:
    """Count what one image takes, with an embedding in float16 that is on the device.

    Args:
        points_per_side: of the grid; its square is at most `MAX_POINTS_AT_ONCE`.
        image_size: (H, W), pixels.
    """
    with torch.device("meta"):
        sam = assemble_sam(AbsentEncoder(img_size=1024)).eval().requires_grad_(False).to("meta")
        embedding = torch.empty(1, 256, 64, 64, dtype=torch.float16)
    counter = _Counter()
    with _as_on_hopper(counter):
        decoder = SharedDecoder(sam, "fp16")
        decoder._token_side = TritonTokenSide(sam, torch.float16)
        decoder._image_sides = [TritonImageSide(ImageSideWeights.of(sam), torch.float16)]
        generating = generator.MaskGenerator(sam, MaskConfig(points_per_side=points_per_side), "fp16", decoder)
        # Once for what is kept from one image to the next.
        for counting in (False, True):
            with ExitStack() as stack:
                if counting:
                    stack.enter_context(_Constructors(counter))
                counter.is_counting = counting
                stack.enter_context(counter)
                generating.detect(embedding, image_size)
    sites = [Site(*site, *(counter.counts[site][kind] for kind in _KINDS)) for site in counter.counts]
    return DetectCounts(sorted(sites, key=lambda site: (site.part, -site.launches)), counter.operations)


def totals(sites: list[Site]) -> list[Site]:
    """Of each part, and of all."""
    parts = sorted({site.part for site in sites})
    named = [(part, [site for site in sites if site.part == part]) for part in parts]
    return [
        Site(part, "all", sum(s.launches for s in some), sum(s.copies for s in some), sum(s.waits for s in some))
        for part, some in [*named, ("all", sites)]
    ]


_KINDS = ("launches", "copies", "waits")


class _Counter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.counts: dict[tuple[str, str], Counter[str]] = {}
        self.operations: dict[str, Counter[str]] = {}
        self.is_counting = False

    def launched(self, name: str) -> None:
        part = self._count("launches", _LAUNCHES.get(name, 1))
        if part:
            self.operations.setdefault(part, Counter())[name] += _LAUNCHES.get(name, 1)

    def copied(self, *, waits: bool) -> None:
        self._count("copies", 1)
        self._count("waits", int(waits))

    def _count(self, kind: str, number: int) -> str | None:
        if not self.is_counting:
            return None
        part, function = _caller()
        self.counts.setdefault((part, function), Counter())[kind] += number
        return part

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        if name != "scaled_dot_product_attention" and func._can_decompose():
            with self:  # composed of others, which are counted
                return func.decompose(*args, **kwargs)
        if name == "_to_copy" and torch.device(kwargs.get("device") or args[0].device) != args[0].device:
            self.copied(waits=not kwargs.get("non_blocking"))
            return torch.ones(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype, device=kwargs["device"])
        if name == "copy_" and args[0].device != args[1].device:
            self.copied(waits=not (kwargs.get("non_blocking") or args[2:3] == (True,)))
            return args[0].fill_(1)
        if name == "scaled_dot_product_attention":
            self.launched(name)
            # As the kernels of CUDA return it: heads next to channels in memory.
            return args[0].transpose(1, 2).new_empty(args[0].transpose(1, 2).shape).transpose(1, 2)
        output = func(*args, **kwargs)
        inputs, outputs = ([leaf for leaf in tree_leaves(of) if isinstance(leaf, Tensor)] for of in (args, output))
        is_view = {_storage(x) for x in outputs} <= {_storage(x) for x in inputs} and not name.endswith("_")
        is_view |= name == "detach_"
        on_device = any(x.device.type == "meta" for x in outputs)
        if on_device and not is_view and "empty" not in name and any(x.numel() for x in outputs):
            self.launched(name)
        return output


class _Constructors(TorchFunctionMode):
    """Counts copies to the device that torch hides from the other counter: tensors and indices of Python's numbers."""

    def __init__(self, counter: _Counter) -> None:
        super().__init__()
        self._counter = counter

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.__name__
        if name in ("tensor", "as_tensor"):
            is_copy = str(kwargs.get("device")) == "meta"
        elif name == "__getitem__":
            indices = args[1] if isinstance(args[1], tuple) else args[1:]
            is_copy = args[0].is_meta and any(isinstance(index, list | np.ndarray) for index in indices)
        else:
            is_copy = name == "new_tensor" and args[0].is_meta
        if is_copy:
            self._counter.copied(waits=True)
        return func(*args, **kwargs)


class _Counted:
    """Takes the place of a kernel."""

    def __init__(self, name: str, counter: _Counter) -> None:
        self._name, self._counter = name, counter

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return lambda *_, **__: self._counter.launched(self._name)


@contextmanager
def _as_on_hopper(counter: _Counter) -> Iterator[None]:
    from triton.runtime.jit import KernelInterface

    def copy_to_host(*tensors: Tensor) -> Any:
        for _ in tensors:
            counter.copied(waits=False)
        return lambda: [np.ones(tensor.shape, np.float32) for tensor in tensors]

    with ExitStack() as stack:
        for target, name, value in (
            (KernelInterface, "__getitem__", lambda kernel, _: _Counted(kernel.__name__, counter)[()]),
            (upscaling, "finds_runs", lambda _: True),
            (generator, "finds_runs", lambda _: True),
            (generator, "start_to_host", copy_to_host),
        ):
            stack.enter_context(mock.patch.object(target, name, value))
        yield


def _caller() -> tuple[str, str]:
    """Part and function of the frame of ours that is nearest; the part is told by the files of its callers."""
    frame: FrameType | None = sys._getframe()
    function, part = None, "generator"
    while frame:
        path = frame.f_code.co_filename
        if path.startswith(_PACKAGE):
            function = function or f"{Path(path).stem}.{frame.f_code.co_qualname}"
            found = [name for file, name in _PARTS.items() if file in path]
            if found:
                share = frame.f_code.co_name == "share" and "image once"
                return share or found[0], function
        frame = frame.f_back
    return part, function or "?"


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
