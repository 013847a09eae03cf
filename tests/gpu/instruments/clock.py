"""Time and memory on the device."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch


def milliseconds(function: Callable[[], object], repeats: int) -> float:
    """Median time of a call after one or two that do not count: between two events on CUDA, by the clock without."""
    times = []
    for _ in range(min(2, repeats)):
        function()
    for _ in range(repeats):
        times.append(_on_device(function) if torch.cuda.is_available() else seconds(function) * 1000)
    return statistics.median(times)


def seconds(function: Callable[[], object]) -> float:
    """Of one call by the clock, until the device is done too."""
    start = time.perf_counter()
    function()
    synchronize()
    return time.perf_counter() - start


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_gib(function: Callable[[], object]) -> float | None:
    """Most device memory that tensors take during a call; None, and no call, without a device."""
    if not torch.cuda.is_available():
        return None
    torch.cuda.reset_peak_memory_stats()
    function()
    synchronize()
    return torch.cuda.max_memory_allocated() / 2**30


def _on_device(function: Callable[[], object]) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    function()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end)
