"""Hardware counters of the kernels by Nsight Compute, if it is there: `ncu.txt` in the output folder.

As a program this is what Nsight Compute watches.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import torch

from tests.gpu.bench import FULL, Bench
from tests.gpu.instruments.results import Figures
from tests.gpu.passes import calls_of_passes, image_side
from tests.gpu.running import Cases

KERNELS = "regex:^(fold_first|weigh_first|fold_second|weigh_second|attend|upscale|_measure)$"


def cases(bench: Bench) -> Cases:
    ncu = shutil.which("ncu")
    if bench.device == "cpu":
        yield "what would be watched", partial(work, bench)
    else:
        yield "ncu", partial(_watch, bench, ncu) if ncu else lambda: {"missing": "ncu"}


def _watch(bench: Bench, ncu: str) -> Figures:
    target = bench.output / "ncu.txt"
    options = ["--clock-control", "none", "--kernel-name", KERNELS, "--launch-count", "5", "--log-file", str(target)]
    sections = [word for name in ("SpeedOfLight", "Occupancy", "WarpStateStats") for word in ("--section", name)]
    command = [ncu, *options, *sections, sys.executable, "-m", __name__]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-300:]
    return {"written_to": target.name}


def work(bench: Bench) -> Figures:
    """Each kernel once or twice."""
    with torch.no_grad():
        for call in calls_of_passes(bench, image_side(bench)).values():
            call()
    return {}


if __name__ == "__main__":
    nowhere = Path()
    work(Bench(FULL, nowhere, nowhere, nowhere))
