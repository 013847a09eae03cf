"""Hardware counters of the kernels by Nsight Compute, if it is there: `ncu.txt` in the output folder.

As a program it is what Nsight Compute watches: one decode of a grid of prompts, and its masks measured.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from functools import partial

import torch

from tests.gpu.bench import DRY, FULL, Bench
from tests.gpu.passes import calls_of_passes, image_side
from tests.gpu.results import Figures
from tests.gpu.running import Cases

KERNELS = "regex:^(average|rebuild|upscale|_measure)$"


def cases(bench: Bench) -> Cases:
    yield "workload", partial(_run, [sys.executable, "-m", __name__, bench.device])
    if ncu := shutil.which("ncu"):
        yield "ncu", partial(_watch, bench, ncu)
    elif bench.device == "cuda":
        yield "ncu", lambda: {"missing": "ncu"}


def _watch(bench: Bench, ncu: str) -> Figures:
    target = bench.output / "ncu.txt"
    options = ["--clock-control", "none", "--kernel-name", KERNELS, "--launch-count", "5", "--log-file", str(target)]
    sections = [word for name in ("SpeedOfLight", "Occupancy", "WarpStateStats") for word in ("--section", name)]
    return _run([ncu, *options, *sections, sys.executable, "-m", __name__, bench.device])


def _run(command: list[str]) -> Figures:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-300:]
    return {}


def main(device: str) -> None:
    scale = FULL if device == "cuda" else DRY
    nowhere = Bench(scale, *(3 * [None]))  # type: ignore[arg-type]  no files are read
    with torch.no_grad():
        for call in calls_of_passes(nowhere, image_side(nowhere)).values():
            call()


if __name__ == "__main__":
    main(sys.argv[1])
