"""Bytes that the image encoder's blocks move on a GPU that need not be there, and how many launches they take.

The blocks run on the meta device, in the form that they have on a GPU in bfloat16. Every operation counts its inputs
and outputs once, as if no cache helped. Kernels of Triton count likewise instead of being launched.
"""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sam_pipeline.model.networks import triton_blocks
from sam_pipeline.model.registry import build_sam

_PRODUCTS = ("linear", "attention")
_KERNELS = ("add_norm", "split_heads", "merge_heads")


class Traffic(NamedTuple):
    """Of an image."""

    operation: str
    launches: float
    """Of a batch, by its images."""
    gigabytes: float


def trace_encoder(model_type: str, batch_size: int) -> list[Traffic]:
    """What the blocks of an encoder move, by operation, the most first."""
    with torch.device("meta"):
        encoder: Any = build_sam(model_type).image_encoder.requires_grad_(False)
        side = encoder.pos_embed.shape[1]
        tokens = torch.empty(batch_size, side, side, encoder.pos_embed.shape[3])
    counter = TrafficCounter()
    with ExitStack() as stack:
        for name in _KERNELS:
            stack.enter_context(mock.patch.object(triton_blocks, name, CountedKernel(name, counter)))
        stack.enter_context(torch.inference_mode())
        stack.enter_context(counter)
        triton_blocks.run_blocks(tokens, encoder.blocks, torch.bfloat16)
    rows = (
        Traffic(name, counter.launches[name] / batch_size, num_bytes / batch_size / 1e9)
        for name, num_bytes in counter.num_bytes.items()
    )
    return sorted(rows, key=lambda row: -row.gigabytes)


def beside_products(rows: list[Traffic]) -> float:
    """Gigabytes of everything but matrix products and attention."""
    return sum(row.gigabytes for row in rows if not any(word in row.operation for word in _PRODUCTS))


class TrafficCounter(TorchDispatchMode):
    """Counts bytes and launches by operation."""

    def __init__(self) -> None:
        super().__init__()
        self.num_bytes: Counter[str] = Counter()
        self.launches: Counter[str] = Counter()

    def count(self, name: str, tensors: list[Tensor]) -> None:
        """Count an operation on these tensors, inputs and outputs."""
        self.num_bytes[name] += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        self.launches[name] += 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        inputs, outputs = ([leaf for leaf in tree_leaves(of) if isinstance(leaf, Tensor)] for of in (args, output))
        is_view = {_storage(tensor) for tensor in outputs} <= {_storage(tensor) for tensor in inputs}
        if not is_view and "empty" not in str(func):
            self.count(func.overloadpacket.__name__, inputs + outputs)
        return output


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


class CountedKernel:
    """Takes the place of a kernel."""

    def __init__(self, name: str, counter: TrafficCounter) -> None:
        self._name, self._counter = name, counter

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return self._count

    def _count(self, *args: Any, **_: Any) -> None:
        tensors = [argument for argument in args if isinstance(argument, Tensor)]
        self._counter.count(self._name, tensors)
