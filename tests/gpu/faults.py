"""What a GPU's errors are called, and what CUDA takes of the limited memory: `python -m tests.gpu.faults`.

Each check has a process of its own, since some of them leave it with a GPU that it can use no more. Needs torch with
CUDA and nothing else.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from sam_pipeline.pipeline.workers.device_faults import is_device_lost, is_out_of_memory


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


CHECKS = (
    a_failed_assertion_loses_the_device,
    too_large_a_tensor_is_out_of_memory_and_the_device_goes_on,
    the_memory_limit_counts_little_of_cuda,
)


def main() -> int:
    if not torch.cuda.is_available():
        say("no CUDA device")
        return 1
    failed = 0
    for check in CHECKS:
        code = f"from tests.gpu.faults import *; say({check.__name__}())"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
        failed += done.returncode != 0
        say(f"{check.__name__}: {done.stdout.strip() if done.returncode == 0 else 'FAILED ' + done.stderr[-2000:]}")
    return 1 if failed else 0


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _error_of(call: Callable[[], object]) -> Exception:
    try:
        call()
    except Exception as error:  # noqa: BLE001  which one it is is the question
        return error
    raise AssertionError("no error")


def _private_bytes() -> int:
    """What RLIMIT_DATA counts, and stacks."""
    return int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()


if __name__ == "__main__":
    sys.exit(main())
