"""What the kernels of `detect` would take on an H200, from their compiled code: 1,024 points, 1500 x 2250 pixels, fp16.

Figures are of all programs of a launch; `measured/detect_estimate.py` says what is assumed. Masks that are measured are
those of photographs, found on the CPU (half a minute each).
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from benchmarks.report import print_table, write_result

if TYPE_CHECKING:
    from benchmarks.measured.detect_estimate import Estimate

_PHOTOGRAPHS = ("astronaut.png", "coffee.png")
"""One whose masks have as many mixed cells as most, and one with twice as many."""
_COLUMNS = (
    "kernel", "programs", "warps", "instructions a warp", "10^9 instructions", "GB", "TFLOP",
    "ms: instructions", "bytes", "products", "the longest",
)  # fmt: skip


def main(arguments: Sequence[str]) -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(
        "benchmark estimate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photographs", nargs="+", default=_PHOTOGRAPHS, help="of scikit-image, by file name")
    parser.add_argument("--points-per-side", type=int, default=16, help="by which their masks are found")
    parser.add_argument("--name", default="estimate", help="of the result file")
    parsed = parser.parse_args(arguments)
    os.environ.pop("TRITON_INTERPRET", None)  # its kernels cannot be compiled
    from benchmarks.measured import detect_estimate
    from benchmarks.measured.detect_launches import totals, trace_detect
    from benchmarks.measured.mask_work import detect_masks
    from benchmarks.measured.token_estimate import estimate_tokens

    masks = {name: detect_masks(name, detect_estimate.SIZE, parsed.points_per_side) for name in parsed.photographs}
    decoding = [(row.kernel, row) for row in detect_estimate.estimate_image_side()]
    of_masks = {
        name: [
            (f"{row.kernel}, {name}", row)
            for row in (detect_estimate.estimate_measuring(found), *detect_estimate.estimate_edges(found))
        ]
        for name, found in masks.items()
    }
    named = [*decoding, *(row for rows in of_masks.values() for row in rows)]
    launches = next(site.launches for site in totals(trace_detect().sites) if site.part == "all")
    others = {
        "tokens": estimate_tokens(detect_estimate.PROMPTS).ms,
        f"{launches} launches, unless hidden": detect_estimate.launches_ms(launches),
    }
    sums = dict(others)
    for name, rows in of_masks.items():
        sums[f"all, {name}"] = sum(others.values()) + sum(row.ms for _, row in (*decoding, *rows))
    sum_rows = [(name, *[""] * (len(_COLUMNS) - 2), f"{ms:.2f}") for name, ms in sums.items()]
    print_table(_COLUMNS, [*(_cells(name, row) for name, row in named), *sum_rows])
    kernels = [{**row._asdict(), "kernel": name, "ms": row.ms} for name, row in named]
    write_result(parsed.name, {"kernels": kernels, "ms": sums})


def _cells(name: str, row: Estimate) -> tuple[str, ...]:
    figures = (row.total_instructions / 1e9, row.num_bytes / 1e9, row.flop / 1e12)
    times = (row.instruction_ms, row.memory_ms, row.product_ms, row.ms)
    return (
        name, f"{row.programs:,}", f"{row.warps:,}", f"{row.instructions:,.0f}",
        *(f"{figure:.2f}" for figure in figures), *(f"{time:.2f}" for time in times),
    )  # fmt: skip
