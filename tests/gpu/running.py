"""Steps one after another, each in a process of its own that is ended when its time is up.

So a step that hangs, or breaks the CUDA context, costs only itself: its rows so far are written, and the next begins.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from importlib import import_module
from multiprocessing.process import BaseProcess
from typing import NamedTuple

from tests.gpu.bench import Bench
from tests.gpu.instruments.results import STEP, Figures, append_row, write_summary

Case = tuple[str, Callable[[], Figures]]
Cases = Iterator[Case]
"""What the function `cases` of a step's module gives: names, and what gives their figures."""

TOTAL_S = 530
"""Nine minutes, less the installation of what was carried."""


class Step(NamedTuple):
    name: str
    module: str
    limit_s: float


STEPS = tuple(
    Step(name, f"tests.gpu.steps.{name}", limit_s)
    for name, limit_s in (
        ("setup", 25),
        ("checks", 75),
        ("engine", 90),
        ("parts", 45),
        ("agreement", 45),
        ("batches", 50),
        ("profiles", 35),
        ("processes", 50),
        ("launches", 40),
        ("faults", 20),
        ("counters", 20),
        ("compiling", 35),
    )
)
"""In the order of what is missed most if time runs out."""

# Its children begin with torch imported, 5 s each, and without a CUDA context.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["torch", "sam_pipeline.pipeline.workers.engine", "tests.gpu.running"])


def run_steps(bench: Bench, steps: Sequence[Step], total_s: float) -> bool:
    """Run steps as long as there is time; whether all of them passed."""
    end = time.monotonic() + total_s
    passed = True
    for step in steps:
        start = time.monotonic()
        status = _run_within(bench, step, min(step.limit_s * bench.scale.patience, end - start))
        passed &= status == "passed"
        append_row(bench.output, step.name, STEP, {"status": status, "seconds": time.monotonic() - start})
        write_summary(bench.output)
    return passed


def _run_within(bench: Bench, step: Step, limit_s: float) -> str:
    if limit_s < 5:
        return "no time left"
    process = CONTEXT.Process(target=_run_step, args=(bench, step, limit_s))
    process.start()
    process.join(limit_s)
    if process.is_alive():
        _kill(process)
        return f"ended after {limit_s:.0f} s"
    return "passed" if process.exitcode == 0 else f"failed, exit code {process.exitcode}"


def _kill(process: BaseProcess) -> None:
    """With its children."""
    assert process.pid is not None
    with suppress(ProcessLookupError):  # killed before it had a group of its own
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join(10)


def _run_step(bench: Bench, step: Step, limit_s: float) -> None:
    import torch  # not by the process that watches: it would take seconds

    os.setsid()
    faulthandler.dump_traceback_later(limit_s - 2)  # where it was when it is ended
    results: list[Figures] = []
    with torch.no_grad():
        try:
            for name, case in import_module(step.module).cases(bench):
                results.append(_figures(case))
                append_row(bench.output, step.name, name, results[-1])
        except Exception as error:  # noqa: BLE001  between two cases
            results.append(_error(error))
            append_row(bench.output, step.name, "preparation", results[-1])
    sys.exit(any("error" in figures for figures in results))


def _figures(case: Callable[[], Figures]) -> Figures:
    try:
        return case()
    except Exception as error:  # noqa: BLE001  the other cases still run, and GPU time is scarce
        return _error(error)


def _error(error: Exception) -> Figures:
    traceback.print_exception(error)
    return {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
