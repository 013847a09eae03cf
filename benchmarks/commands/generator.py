"""The whole generator on the same photographs: ours, the official one, and peers, all with MobileSAM's weights.

Each run is a process of its own, the contenders take turns, and figures are medians over the runs.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measured.contender import CONTENDERS, run_contender
from benchmarks.measured.stages import STAGES
from benchmarks.photographs import skimage_photograph
from benchmarks.report import agreement, print_table, write_result
from sam_pipeline.model.checkpoints import fetch_checkpoint

COLUMNS = ("photograph", "generator", "s", *STAGES, "speed-up", "peak MiB", "masks", "matched", "Δ score")


def compare(
    image: Path, settings: dict[str, Any], contenders: Sequence[str], runs: int, checkpoint: Path
) -> list[dict[str, Any]]:
    """Rows of the table for one photograph; speed-up and agreement are with the first contender."""
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in contenders}
    for _ in range(runs):
        for name in contenders:
            if not any("error" in result for result in results[name]):
                results[name].append(run_contender(name, image, settings, checkpoint))
    reference = results[contenders[0]]
    return [{"image": image.name, "name": name, **_row(reference, found)} for name, found in results.items()]


def _row(reference: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Medians of one contender's runs, or the error that stopped it."""
    errors = [result["error"] for result in found if "error" in result]
    if errors:
        return {"error": errors[0]}
    return {
        "seconds": statistics.median(result["seconds"] for result in found),
        "all_seconds": [result["seconds"] for result in found],
        "stages": {stage: statistics.median(result["stages"][stage] for result in found) for stage in STAGES},
        # Turn by turn, so that a slow minute of the machine slows both.
        "speedup": statistics.median(
            ours["seconds"] / theirs["seconds"] for ours, theirs in zip(reference, found, strict=True)
        ),
        "peak_bytes": statistics.median(result["peak_bytes"] for result in found),
        "versions": found[0]["versions"],
        **agreement(reference[0]["masks"], found[0]["masks"]),
    }


def table_row(row: Mapping[str, Any]) -> Sequence[str]:
    """Cells under COLUMNS."""
    if "error" in row:
        return (row["image"], row["name"], "does not run", *[""] * (len(COLUMNS) - 3))
    return (
        row["image"],
        row["name"],
        f"{row['seconds']:.1f}",
        *(f"{row['stages'][stage]:.1f}" for stage in STAGES),
        f"{row['speedup']:.2f}",
        f"{row['peak_bytes'] / 2**20:.0f}",
        str(row["masks"]),
        f"{row['matched']:.1%}",
        f"{row['max_score_difference']:.0e}",
    )


def main(arguments: Sequence[str]) -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser("benchmark generator", description=__doc__)
    parser.add_argument("images", type=Path, nargs="*", help="photographs; by default scikit-image's coffee.png")
    parser.add_argument("--settings", type=json.loads, default={}, help="JSON of mask settings, official defaults")
    parser.add_argument("--runs", type=int, default=1, help="runs of each contender on each photograph")
    parser.add_argument(
        "--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS), help="first: reference"
    )
    parser.add_argument("--name", default="generator", help="of the result file")
    parsed = parser.parse_args(arguments)
    checkpoint = fetch_checkpoint("vit_t")
    rows: list[dict[str, Any]] = []
    for image in parsed.images or [skimage_photograph("coffee.png")]:
        rows += compare(image, parsed.settings, parsed.contenders, parsed.runs, checkpoint)
    print_table(COLUMNS, [table_row(row) for row in rows])
    for row in rows:
        if "error" in row:
            print(f"{row['name']} does not run: {row['error']}")
    write_result(parsed.name, {"settings": parsed.settings, "runs": parsed.runs, "rows": rows})
