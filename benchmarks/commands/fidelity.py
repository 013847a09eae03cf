"""Do we find the official generator's masks? Counts, matches and scores on many photographs.

The official generator takes a minute or so a photograph, so its masks are kept in .cache/official/, under names made
of the pixels and the settings; a second run costs only ours. Nothing is timed here.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from benchmarks.measured.contender import official, ours
from benchmarks.measured.float16 import ProductsOfFloat16
from benchmarks.photographs import photographs, read_photograph
from benchmarks.report import agreement, matched_share, print_table, write_result
from sam_pipeline.config import ResolvedPrecision
from sam_pipeline.model.checkpoints import fetch_checkpoint

CACHE = Path(".cache/official")
EQUAL_COUNT_BAR = 0.95
"""Share of photographs on which the count of masks must be the official one."""
MATCHED_BAR = 0.995
"""Share of masks that must have a partner at IoU 0.99."""


def run(
    images: Sequence[Path], settings: dict[str, Any], precision: ResolvedPrecision, official_only: bool, name: str
) -> None:
    """Compare, print, write."""
    checkpoint = fetch_checkpoint("vit_t")
    make_official = functools.cache(lambda: official(settings, checkpoint))  # not loaded when all is in the cache
    generate = None if official_only else ours(settings, checkpoint, precision)
    progress = Console(stderr=True)
    rows = []
    for path in images:
        image = read_photograph(path)
        official_masks = cached_masks(image, settings, lambda image=image: make_official()(image), CACHE)
        progress.print(f"{path.name}: {len(official_masks)} official masks")
        if generate is not None:
            with ProductsOfFloat16():
                rows.append({"image": path.name, **agreement(official_masks, generate(image))})
    if rows:
        _print(rows)
        write_result(name, {"settings": settings, "precision": precision, "summary": summary(rows), "rows": rows})


def cached_masks(
    image: NDArray[np.uint8], settings: Mapping[str, Any], generate: Callable[[], list[dict[str, Any]]], folder: Path
) -> list[dict[str, Any]]:
    """Masks from the cache, or made now and kept there; an interrupted run leaves no half-written file."""
    # How many prompts go into a batch divides the work and changes no mask.
    deciding = {key: value for key, value in settings.items() if key != "points_per_batch"}
    digest = hashlib.sha256(json.dumps([deciding, image.shape], sort_keys=True).encode())
    digest.update(np.ascontiguousarray(image))
    path = folder / f"{digest.hexdigest()[:32]}.json"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        scratch = path.with_suffix(f".{os.getpid()}")
        scratch.write_text(json.dumps(generate()))
        scratch.rename(path)
    masks: list[dict[str, Any]] = json.loads(path.read_text())
    return masks


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """All photographs in a few figures, and whether they clear the bars."""
    differences = [abs(row["masks"] - row["masks_reference"]) for row in rows]
    pairs, num_reference, num_masks = (sum(row[key] for row in rows) for key in ("pairs", "masks_reference", "masks"))
    equal_count = sum(difference == 0 for difference in differences) / len(rows)
    matched = matched_share(pairs, num_reference, num_masks)
    return {
        "photographs": len(rows),
        "masks_reference": num_reference,
        "masks": num_masks,
        "equal_count": equal_count,
        "equal_count_bar": EQUAL_COUNT_BAR,
        "matched": matched,
        "matched_bar": MATCHED_BAR,
        "max_count_difference": max(differences),
        "max_score_difference": max(row["max_score_difference"] for row in rows),
        "passed": equal_count >= EQUAL_COUNT_BAR and matched >= MATCHED_BAR,
    }


def _print(rows: Sequence[Mapping[str, Any]]) -> None:
    print_table(
        ("photograph", "official masks", "our masks", "matched", "Δ score"),
        [
            (
                row["image"],
                str(row["masks_reference"]),
                str(row["masks"]),
                f"{row['matched']:.2%}",
                f"{row['max_score_difference']:.0e}",
            )
            for row in rows
        ],
    )
    found = summary(rows)
    print_table(
        ("", "found", "bar"),
        [
            ("photographs with the official count", f"{found['equal_count']:.1%}", f"{EQUAL_COUNT_BAR:.1%}"),
            ("masks matched at IoU 0.99", f"{found['matched']:.2%}", f"{MATCHED_BAR:.1%}"),
            ("largest difference of a count", str(found["max_count_difference"]), ""),
            ("largest difference of a score", f"{found['max_score_difference']:.0e}", ""),
            ("passed", "yes" if found["passed"] else "no", ""),
        ],
    )


def main(arguments: Sequence[str]) -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser("benchmark fidelity", description=__doc__)
    parser.add_argument("images", type=Path, nargs="*", help="photographs; by default those in packages")
    parser.add_argument("--settings", type=json.loads, default={}, help="JSON of mask settings, official defaults")
    parser.add_argument(
        "--precision",
        choices=get_args(ResolvedPrecision),
        default="fp32",
        help="of ours, which the bars are for in fp32; on a CPU, half precision is that of the image encoder alone",
    )
    parser.add_argument("--official-only", action="store_true", help="fill the cache of official masks, no more")
    parser.add_argument("--name", default="fidelity", help="of the result file")
    parsed = parser.parse_args(arguments)
    run(parsed.images or photographs(), parsed.settings, parsed.precision, parsed.official_only, parsed.name)
