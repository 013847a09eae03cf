"""Copies between host and device that nobody waits for before the values are needed.

A copy from pageable memory, such as a NumPy array's, waits until the device has finished all queued work. A copy from
pinned memory is queued like any other work.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor


def to_device(array: NDArray[Any], device: torch.device) -> Tensor:
    """The array on a device; on a CPU it keeps its memory."""
    tensor = torch.from_numpy(array)
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)


def start_to_host(*tensors: Tensor) -> Callable[[], list[NDArray[Any]]]:
    """Start to copy tensors of one device to the host; what is returned waits for the copies and gives them."""
    device = tensors[0].device
    if device.type != "cuda":
        return lambda: [tensor.cpu().numpy() for tensor in tensors]
    pinned = [torch.empty(x.shape, dtype=x.dtype, pin_memory=True).copy_(x, non_blocking=True) for x in tensors]
    # blocking=True lets the waiting thread sleep; spinning would occupy a CPU.
    copied = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]  # torch has no type
    copied.record(torch.cuda.current_stream(device))

    def wait() -> list[NDArray[Any]]:
        copied.synchronize()
        return [tensor.numpy() for tensor in pinned]

    return wait
