"""What the benchmark says: agreement of masks, the machine it ran on, a table."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from typing import Any

import torch
from pycocotools import mask as coco_mask
from rich.console import Console
from rich.table import Table
from scipy.optimize import linear_sum_assignment

MATCH_IOU = 0.99


def agreement(run: dict[str, Any]) -> dict[str, Any]:
    """Mask counts, share of masks (ours and theirs) matched one to one at IoU 0.99, largest difference of a score."""
    ours, official = run["ours"]["masks"], run["official"]["masks"]
    found = {"masks_official": len(official), "masks_ours": len(ours), "matched": 0.0, "max_score_difference": 0.0}
    if not ours or not official:
        return found
    iou = coco_mask.iou(
        [mask["segmentation"] for mask in ours], [mask["segmentation"] for mask in official], [False] * len(official)
    )
    pairs = [(i, j) for i, j in zip(*linear_sum_assignment(-iou), strict=True) if iou[i, j] >= MATCH_IOU]
    scores = ("predicted_iou", "stability_score")
    differences = [abs(ours[i][score] - official[j][score]) for i, j in pairs for score in scores]
    return found | {
        "matched": 2 * len(pairs) / (len(ours) + len(official)),
        "max_score_difference": max(differences, default=0.0),
    }


def machine() -> dict[str, Any]:
    """Hardware and versions."""
    packages = ("torch", "numpy", "numba", "pillow", "segment-anything")
    return {
        "processor": platform.processor() or platform.machine(),
        "cpus": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "versions": {package: version(package) for package in packages},
    }


def print_table(rows: list[dict[str, Any]]) -> None:
    """One line an image."""
    table = Table(box=None)
    for column in (
        "image",
        "official s",
        "ours s",
        "speed-up",
        "official MiB",
        "ours MiB",
        "masks",
        "matched",
        "Δ score",
    ):
        table.add_column(column, justify="left" if column == "image" else "right")
    for row in rows:
        table.add_row(
            row["image"],
            f"{row['official_seconds']:.1f}",
            f"{row['ours_seconds']:.1f}",
            f"{row['speedup']:.2f}",
            f"{row['official_peak_bytes'] / 2**20:.0f}",
            f"{row['ours_peak_bytes'] / 2**20:.0f}",
            f"{row['masks_official']} / {row['masks_ours']}",
            f"{row['matched']:.1%}",
            f"{row['max_score_difference']:.0e}",
        )
    Console(width=140).print(table)
