"""Starts the benchmarks: `python -m jobs.benchmark [COMMAND] [--help]`; see benchmarks/README.md."""

from __future__ import annotations

import sys
from pathlib import Path
from runpy import run_module

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `python jobs/benchmark.py` puts only jobs/ there
    run_module("benchmarks", run_name="__main__")
