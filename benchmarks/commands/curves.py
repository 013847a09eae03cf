"""How time grows, ours and the official one's: with points per side, image size, prompts a batch and threads.

One curve changes one thing; the others stay at 8 x 8 points (the default 32 x 32 would take hours), 64 prompts a
batch, the photograph as it is, and all threads. Each measurement is one run in a process of its own, ten minutes or
so in all on two cores.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from benchmarks.measured.contender import run_contender
from benchmarks.photographs import skimage_photograph
from benchmarks.report import print_table, write_result
from sam_pipeline.model.checkpoints import fetch_checkpoint

CONTENDERS = ("official", "ours")
LONG_SIDES = (400, 800, 1500, 3000)


@dataclass(frozen=True)
class Setup:
    """What one measurement is made with."""

    points_per_side: int = 8
    long_side: int | None = None
    """Pixels; the photograph's own when None."""
    points_per_batch: int = 64
    threads: int = torch.get_num_threads()


def curves(points: Sequence[int], threads: Sequence[int]) -> dict[str, list[Setup]]:
    """Curve → its measurements; the name of a curve is the field that changes."""
    base = Setup()
    return {
        "points_per_side": [replace(base, points_per_side=value) for value in points],
        # The work on pixels does not depend on the grid, that of a prompt not on the size: few prompts show more.
        "long_side": [replace(base, long_side=value, points_per_side=4) for value in LONG_SIDES],
        "points_per_batch": [replace(base, points_per_batch=value) for value in (1, 4, 16, 64)],
        "threads": [replace(base, threads=value) for value in threads],
    }


def measure(photograph: Path, name: str, setup: Setup, checkpoint: Path) -> dict[str, Any]:
    """One contender once; without its masks."""
    settings = {"points_per_side": setup.points_per_side, "points_per_batch": setup.points_per_batch}
    # Read when torch and numba are loaded, so that pools of threads are made with that size.
    environment = os.environ | {"OMP_NUM_THREADS": str(setup.threads), "NUMBA_NUM_THREADS": str(setup.threads)}
    with tempfile.TemporaryDirectory() as scratch:
        resized = _resized(photograph, setup.long_side, Path(scratch))
        result = run_contender(name, resized, settings, checkpoint, environment)
    return {key: result[key] for key in ("seconds", "stages", "peak_bytes")} | {"masks": len(result["masks"])}


def _resized(photograph: Path, long_side: int | None, folder: Path) -> Path:
    if long_side is None:
        return photograph
    with Image.open(photograph) as image:
        scale = long_side / max(image.size)
        width, height = (round(length * scale) for length in image.size)
        image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC).save(folder / photograph.name)
    return folder / photograph.name


def run(photograph: Path, chosen: dict[str, list[Setup]], checkpoint: Path) -> Iterator[dict[str, Any]]:
    """Rows, one a measurement of all contenders."""
    for curve, setups in chosen.items():
        for setup in setups:
            found = {name: measure(photograph, name, setup, checkpoint) for name in CONTENDERS}
            yield {"curve": curve, "value": getattr(setup, curve), **found}


def main(arguments: Sequence[str]) -> None:
    """Parse and run."""
    all_threads = torch.get_num_threads()
    parser = argparse.ArgumentParser("benchmark curves", description=__doc__)
    parser.add_argument("image", type=Path, nargs="?", default=skimage_photograph("coffee.png"), help="a photograph")
    parser.add_argument("--points", type=int, nargs="+", default=[4, 8, 16, 32], help="of the first curve, a side")
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, all_threads}), help="of the last curve")
    parser.add_argument("--only", nargs="+", choices=list(curves([], [])), help="curves; all by default")
    parser.add_argument("--name", default="curves", help="of the result file")
    parsed = parser.parse_args(arguments)
    chosen = curves(parsed.points, parsed.threads)
    chosen = {name: setups for name, setups in chosen.items() if name in (parsed.only or chosen)}
    rows = list(run(parsed.image, chosen, fetch_checkpoint("vit_t")))
    columns = ("curve", "value", "official s", "ours s", "speed-up", "official MiB", "ours MiB")
    print_table(columns, [_cells(row) for row in rows])
    write_result(parsed.name, {"image": parsed.image.name, "rows": rows})


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    official, ours = (row[name] for name in CONTENDERS)
    return (
        row["curve"],
        str(row["value"]),
        f"{official['seconds']:.1f}",
        f"{ours['seconds']:.1f}",
        f"{official['seconds'] / ours['seconds']:.2f}",
        f"{official['peak_bytes'] / 2**20:.0f}",
        f"{ours['peak_bytes'] / 2**20:.0f}",
    )
