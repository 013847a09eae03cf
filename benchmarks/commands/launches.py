"""Launches, copies and waits of `MaskGenerator.detect` on a GPU that need not be there: one image, float16, Hopper.

Counts, not times. Parts: what is done once an image; the tokens of the prompts, prompt encoder included; the image side
of the decoder; masks at full resolution.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from benchmarks.measured.detect_launches import Site, totals, trace_detect
from benchmarks.report import print_table, write_result


def main(arguments: Sequence[str]) -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(
        "benchmark launches", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--points-per-side", type=int, default=32, help="at most 32: one call of the decoder")
    parser.add_argument("--name", default="launches", help="of the result file")
    parsed = parser.parse_args(arguments)
    traced = trace_detect(parsed.points_per_side)
    parts = totals(traced.sites)
    print_table(Site._fields, [tuple(map(str, row)) for row in [*traced.sites, *parts]])
    write_result(
        parsed.name,
        {
            "parts": [row._asdict() for row in parts],
            "functions": [row._asdict() for row in traced.sites],
            "operations": traced.operations,
        },
    )
