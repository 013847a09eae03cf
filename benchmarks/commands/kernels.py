"""The Triton kernels as compiled for GPUs that need not be there: registers, spills, shared memory, programs that fit.

Figures of a launch, not times: what a change of a kernel or its launch is judged by where no GPU is at hand.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from benchmarks.report import print_table, write_result

_CAPABILITIES = (90, 89, 80)
"""Of Hopper, Ada (L4) and Ampere (A100)."""


def main(arguments: Sequence[str]) -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(
        "benchmark kernels", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--capabilities", type=int, nargs="+", default=_CAPABILITIES, help="such as 90 for 9.0, Hopper")
    parser.add_argument("--name", default="kernels", help="of the result file")
    parsed = parser.parse_args(arguments)
    os.environ.pop("TRITON_INTERPRET", None)  # its kernels cannot be compiled
    from benchmarks.measured.compiled_kernels import CompiledKernel, compile_kernels

    rows = [kernel for capability in parsed.capabilities for kernel in compile_kernels(capability)]
    print_table(CompiledKernel._fields[:-1], [tuple(map(str, row[:-1])) for row in rows])
    write_result(parsed.name, {"kernels": [row._asdict() for row in rows]})
