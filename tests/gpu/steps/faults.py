"""What a GPU's errors are called, and how much of CUDA's memory counts against the limit of a worker.

Each check has a process of its own, since an error may leave it without a usable GPU.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from sam_pipeline.pipeline.workers.device_faults import is_device_lost, is_out_of_memory
from tests.gpu.bench import Bench
from tests.gpu.instruments.results import Figures
from tests.gpu.running import Cases


def a_failed_assertion_loses_the_device() -> str:
    """And so does every call that follows, whatever it is."""
    indices = torch.tensor([5], device="cuda")
    first = _error_of(lambda: torch.zeros(2, device="cuda")[indices].cpu())
    later = _error_of(lambda: torch.ones(1, device="cuda").cpu())
    assert is_device_lost(first), repr(first)
    assert is_device_lost(later), repr(later)
    return f"{type(first).__name__}, then {type(later).__name__}"


def too_large_a_tensor_is_out_of_memory_and_the_device_goes_on() -> str:
    error = _error_of(lambda: torch.empty(2**42, dtype=torch.uint8, device="cuda"))
    assert is_out_of_memory(error), repr(error)
    assert torch.ones(1, device="cuda").item() == 1
    return type(error).__name__


def the_memory_limit_counts_little_of_cuda() -> str:
    """With a limit of 4 GB from before CUDA starts, its start and 8 GB of pinned memory pass."""
    before = _private_bytes()
    resource.setrlimit(resource.RLIMIT_DATA, (before + 4 * 10**9, resource.RLIM_INFINITY))
    product = torch.ones(64, 64, device="cuda") @ torch.ones(64, 64, device="cuda")
    assert product.sum().item() == 64**3
    started = _private_bytes()
    pinned = [torch.empty(10**9, dtype=torch.uint8, pin_memory=True) for _ in range(8)]
    taken = f"start {(started - before) / 1e6:.0f} MB, pinned {(_private_bytes() - started) / 1e6:.0f} MB of it"
    assert len(pinned) == 8
    return taken


def an_index_out_of_range_on_a_cpu_is_neither() -> str:
    error = _error_of(lambda: torch.zeros(2)[torch.tensor([5])])
    assert not is_device_lost(error), repr(error)
    assert not is_out_of_memory(error), repr(error)
    return type(error).__name__


CHECKS = {
    "cuda": (
        a_failed_assertion_loses_the_device,
        too_large_a_tensor_is_out_of_memory_and_the_device_goes_on,
        the_memory_limit_counts_little_of_cuda,
    ),
    "cpu": (an_index_out_of_range_on_a_cpu_is_neither,),
}


def cases(bench: Bench) -> Cases:
    names = [check.__name__ for check in CHECKS[bench.device]]
    # All at once: each takes seconds to import torch and to start CUDA.
    yield from [(name, partial(_answer, _start(name))) for name in names]


def _start(name: str) -> subprocess.Popen[str]:
    code = f"from tests.gpu.steps import faults; print(faults.{name}())"
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _answer(process: subprocess.Popen[str]) -> Figures:
    answer, errors = process.communicate()
    assert process.returncode == 0, errors[-2000:]
    return {"seen": answer.strip()}


def _error_of(call: Callable[[], object]) -> Exception:
    try:
        call()
    except Exception as error:  # noqa: BLE001  which one it is is the question
        return error
    raise AssertionError("no error")


def _private_bytes() -> int:
    """What RLIMIT_DATA counts, and stacks."""
    return int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
