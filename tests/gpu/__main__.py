"""Check and time the CUDA path on this machine: `python -m tests.gpu [--time] [--launches]`.

Needs torch with CUDA, Triton and NumPy, and neither pytest nor anything else that the package depends on. Ends with
status 1 if a check fails; the others still run.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback

import torch
import triton

from tests.gpu import timings
from tests.gpu.checks import CHECKS


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--time", action="store_true", help="also time the parts (a minute)")
    parser.add_argument("--launches", action="store_true", help="also time other launches of each kernel (minutes)")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("no CUDA device")
        return 1
    say(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, Triton {triton.__version__}")
    failed = 0
    for check in CHECKS:
        start = time.perf_counter()
        try:
            outcome = check()
        except Exception:  # noqa: BLE001  the other checks still run, and GPU time is scarce
            failed += 1
            outcome = "FAILED\n" + traceback.format_exc()
        say(f"{check.__name__}: {outcome} ({time.perf_counter() - start:.1f} s)")
    parts = [timings.decoders, timings.passes, timings.masks] if arguments.time else []
    parts += [timings.launches] if arguments.launches else []
    with torch.inference_mode():
        for part in parts:
            for line in part():
                say(line)
    say(f"{failed} of {len(CHECKS)} checks failed")
    return 1 if failed else 0


def say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
