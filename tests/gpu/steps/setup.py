"""What the machine is: versions, ceilings, attention kernels, and whether the memory limit of workers holds."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.report import machine
from sam_pipeline.pipeline.workers.limits import limit_memory
from tests.gpu.bench import Bench
from tests.gpu.instruments.clock import milliseconds
from tests.gpu.instruments.profiling import device_kernels
from tests.gpu.instruments.results import Figures
from tests.gpu.running import Cases

LIMIT_BYTES = 8 * 2**30


def cases(bench: Bench) -> Cases:
    yield "memory limit", lambda: _memory_limit(bench.device)  # first: it forks, which CUDA does not stand
    yield "machine", _machine
    yield "C compiler", _compiler
    for name, shapes in _attentions(bench).items():
        yield f"attention, {name}", _attention_kernels(shapes, bench.device)
    yield "ceilings", lambda: _ceilings(bench)


def _machine() -> Figures:
    found = {**machine(), "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        found |= {"gpu_gib": properties.total_memory / 2**30, "processors": properties.multi_processor_count}
    return found


def _memory_limit(device: str) -> Figures:
    """CUDA must begin, and compute, under the limit that the product's workers set."""
    process = multiprocessing.get_context("fork").Process(target=_sum_under_limit, args=(device,))
    process.start()
    process.join()
    assert process.exitcode == 0, f"exit code {process.exitcode}"
    return {"limit_gib": LIMIT_BYTES / 2**30}


def _sum_under_limit(device: str) -> None:
    limit_memory(LIMIT_BYTES)
    assert torch.ones(2**20, device=device).sum().item() == 2**20


def _compiler() -> Figures:
    """Triton compiles its launcher with one at the first launch."""
    compiler = shutil.which(os.environ.get("CC", "gcc")) or shutil.which("clang")
    assert compiler is not None, "no C compiler: every bfloat16 decode fails"
    told = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True)
    return {"version": told.stdout.splitlines()[0]}


def _attentions(bench: Bench) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    """Shapes (B, N, L, D) of queries and of keys: of vit_h's augmented attentions and of the decoder's."""
    if bench.device == "cpu":
        return {"decoder, tokens to image": ((1, 8, 7, 16), (1, 8, 64, 16))}
    return {
        "vit_h, window": ((8 * 25, 16, 196, 112), (8 * 25, 16, 196, 112)),
        "vit_h, whole image": ((8, 16, 4096, 208), (8, 16, 4096, 208)),
        "decoder, tokens": ((1024, 8, 7, 32), (1024, 8, 7, 32)),
        "decoder, tokens to image": ((1, 8, 7168, 16), (1, 8, 4096, 16)),
    }


def _attention_kernels(shapes: tuple[tuple[int, ...], tuple[int, ...]], device: str) -> Callable[[], Figures]:
    def case() -> Figures:
        q, k = (torch.randn(shape, device=device, dtype=torch.bfloat16) for shape in shapes)
        v = torch.randn_like(k)

        def attend() -> Tensor:
            return F.scaled_dot_product_attention(q, k, v)

        taken = milliseconds(attend, repeats=5)
        return {"ms": taken, "kernel": device_kernels(attend)[0]["kernel"]}

    return case


def _ceilings(bench: Bench) -> Figures:
    """Bytes read and written by a copy; operations of a large product."""
    on_gpu = bench.device == "cuda"
    source = torch.randn(2**31 if on_gpu else 2**16, device=bench.device, dtype=torch.bfloat16)
    target = torch.empty_like(source)
    copied = milliseconds(lambda: target.copy_(source), bench.scale.repeats)
    side = 8192 if on_gpu else 64
    a, b = (torch.randn(side, side, device=bench.device, dtype=torch.bfloat16) for _ in range(2))
    multiplied = milliseconds(lambda: a @ b, bench.scale.repeats)
    return {
        "copy_tb_per_s": 2 * source.nbytes / copied / 1e9,
        "bf16_product_tflop_per_s": 2 * side**3 / multiplied / 1e9,
    }
