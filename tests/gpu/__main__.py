"""Check and time the product on this machine's GPU: `python -m tests.gpu [STEP ...]`, see measure.sh.

Writes a line of JSON for each result, and a table, to the output folder; ends with status 1 if a step failed.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from sam_pipeline.model.checkpoints import CACHE_VARIABLE
from tests.gpu.bench import CACHE, DRY, FULL, Bench
from tests.gpu.instruments.results import write_summary
from tests.gpu.running import STEPS, TOTAL_S, run_steps


def main() -> int:
    names = [step.name for step in STEPS]
    parser = argparse.ArgumentParser("tests.gpu", description=__doc__.split("\n\n")[0])
    parser.add_argument("steps", nargs="*", metavar="STEP", help=f"of {', '.join(names)}; all by default")
    parser.add_argument("--pack", type=Path, default=Path(".gpu-pack"), help="what pack.sh made")
    parser.add_argument("--output", type=Path, default=Path(".gpu-results"), help="folder of the results")
    parser.add_argument("--dry", action="store_true", help="little work on the CPU, to try the steps themselves")
    parsed = parser.parse_args()
    if unknown := set(parsed.steps) - set(names):
        parser.error(f"no such step: {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    pack = parsed.pack.resolve()
    if not (pack / CACHE).is_dir():
        parser.error(f"{parsed.pack} holds no weights: tests/gpu/pack.sh makes it, on a machine with a network")
    # Before the steps import anything.
    os.environ[CACHE_VARIABLE] = str(pack / CACHE)
    if parsed.dry:
        os.environ["TRITON_INTERPRET"] = "1"
    else:
        os.environ.pop("TRITON_INTERPRET", None)
    parsed.output.mkdir(parents=True, exist_ok=True)
    steps = [step for step in STEPS if not parsed.steps or step.name in parsed.steps]
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(DRY if parsed.dry else FULL, pack, parsed.output.resolve(), Path(scratch))
        passed = run_steps(bench, steps, TOTAL_S * bench.scale.patience)
    print(write_summary(parsed.output), flush=True)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
