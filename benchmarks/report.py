"""What the benchmarks say: agreement of masks, the machine they ran on, a table, a file of results."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

MATCH_IOU = 0.99
RESULTS = Path("benchmarks/results")

_PACKAGES = ("torch", "numpy", "numba", "pillow", "opencv-python-headless", "triton", "segment-anything")

Mask = Mapping[str, Any]


def agreement(reference: Sequence[Mask], masks: Sequence[Mask]) -> dict[str, Any]:
    """How far two lists of mask records, with COCO run lengths, say the same.

    Returns:
        Both counts; pairs matched one to one at IoU 0.99; their share of all masks, of both lists; the largest
        difference of a score that both records of a pair have.
    """
    pairs = matched_pairs(reference, masks)
    differences = [
        abs(reference[i][score] - masks[j][score])
        for i, j in pairs
        for score in ("predicted_iou", "stability_score")
        if score in reference[i] and score in masks[j]
    ]
    return {
        "masks_reference": len(reference),
        "masks": len(masks),
        "pairs": len(pairs),
        "matched": matched_share(len(pairs), len(reference), len(masks)),
        "max_score_difference": max(differences, default=0.0),
    }


def matched_pairs(reference: Sequence[Mask], masks: Sequence[Mask]) -> list[tuple[int, int]]:
    """Indexes of the most pairs, one to one, with an IoU of at least 0.99."""
    if not reference or not masks:
        return []
    from pycocotools import mask as coco_mask
    from scipy.optimize import linear_sum_assignment

    rles, reference_rles = ([mask["segmentation"] for mask in some] for some in (masks, reference))
    iou = coco_mask.iou(rles, reference_rles, [False] * len(reference_rles)).T
    # The number of matches counts first, their IoU second.
    chosen = linear_sum_assignment((iou >= MATCH_IOU) * len(iou) + iou, maximize=True)
    return [(int(i), int(j)) for i, j in zip(*chosen, strict=True) if iou[i, j] >= MATCH_IOU]


def matched_share(pairs: int, num_reference: int, num_masks: int) -> float:
    """Masks in a pair over all masks; two empty lists agree."""
    total = num_reference + num_masks
    return 2 * pairs / total if total else 1.0


def machine() -> dict[str, Any]:
    """Hardware and versions."""
    import torch

    return {
        "processor": _processor(),
        "cpus": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "versions": versions(_PACKAGES),
    }


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Versions of those of the packages that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def command() -> list[str]:
    """The command line without folders, which say more of the machine than of the measurement."""
    return ["python", "-m", "jobs.benchmark", *(Path(word).name if "/" in word else word for word in sys.argv[1:])]


def write_result(name: str, result: Mapping[str, Any], path: Path | None = None) -> None:
    """Write a result with machine and command to the folder of results, or to a path."""
    path = path or RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {"machine": machine(), "command": command(), **result}
    path.write_text(json.dumps(document, indent=1) + "\n")


def append_result(name: str, run: Mapping[str, Any]) -> None:
    """Add a run with machine and command to those in a file of the folder of results."""
    path = RESULTS / f"{name}.json"
    runs = json.loads(path.read_text())["runs"] if path.exists() else []
    runs.append({"machine": machine(), "command": command(), **run})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"runs": runs}, indent=1) + "\n")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table on the terminal, the first column of text, the others of figures."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None)
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left")
    for row in rows:
        table.add_row(*row)
    Console(width=160).print(table)


def _processor() -> str:
    """Its name, family and model where Linux tells them: clouds call processors of several generations the same."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    found = dict(reversed([[part.strip() for part in line.split(":", 1)] for line in lines if ":" in line]))
    if "model name" not in found:
        return platform.machine()
    generation = [f"{name} {found[name]}" for name in ("cpu family", "model") if name in found]
    return ", ".join([found["model name"], *generation])
