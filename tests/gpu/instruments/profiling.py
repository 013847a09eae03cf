"""Which kernels a piece of work spends its time in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from tests.gpu.instruments.clock import synchronize


def device_kernels(work: Callable[[], object], most: int = 25) -> list[dict[str, Any]]:
    """Kernels by total time, longest first; operators of torch where there is no GPU."""
    on_gpu = torch.cuda.is_available()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    work()
    synchronize()
    with profile(activities=activities) as profiled:
        work()
        synchronize()
    events = [event for event in profiled.key_averages() if not on_gpu or event.device_type.name == "CUDA"]
    spent = {event.key: event.self_device_time_total if on_gpu else event.self_cpu_time_total for event in events}
    counts = {event.key: event.count for event in events}
    longest = sorted(spent, key=lambda key: -spent[key])[:most]
    return [{"kernel": key[:120], "ms": round(spent[key] / 1000, 4), "calls": counts[key]} for key in longest]
