"""Checking a finished output: every planned image exactly once, every mask sound."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from sam_pipeline.errors import OutputError
from sam_pipeline.storage.filesystem import StorageOptions, one_line
from sam_pipeline.storage.mask_table import iterate_rows
from sam_pipeline.storage.plan_table import read_plan

_MAX_PROBLEMS = 20


@dataclass
class Verification:
    """What was checked and what is wrong."""

    num_planned: int
    num_rows: int = 0
    num_masks: int = 0
    num_lost: int = 0
    num_twice: int = 0
    num_bad_masks: int = 0
    problems: list[str] = field(default_factory=list)
    """The first problems found, one line each."""

    @property
    def ok(self) -> bool:
        """True when nothing is lost, doubled, or unsound."""
        return not (self.num_lost or self.num_twice or self.num_bad_masks)

    def note(self, problem: str) -> None:
        """Keep a problem's description if there is room for it."""
        if len(self.problems) < _MAX_PROBLEMS:
            self.problems.append(problem)


def verify(output: str, options: StorageOptions) -> Verification:
    """Read a whole output and check it against its plan.

    Raises:
        OutputError: there is no plan or no results table.
    """
    plan = read_plan(output, options)
    if plan is None:
        raise OutputError(f"no plan in {output}")
    result = Verification(plan.num_images)
    seen = np.zeros(plan.num_images, dtype=np.uint8)
    for batch in iterate_rows(output, options):
        for row in batch.to_pylist():
            result.num_rows += 1
            result.num_masks += len(row["masks"])
            image_id = row["image_id"]
            if not 0 <= image_id < plan.num_images:
                result.num_bad_masks += 1
                result.note(f"image_id {image_id} is not in the plan")
                continue
            seen[image_id] = min(seen[image_id] + 1, 2)
            for problem in _row_problems(row):
                result.num_bad_masks += 1
                result.note(f"image {image_id} ({row['uri']}): {problem}")
    result.num_lost = int((seen == 0).sum())
    result.num_twice = int((seen == 2).sum())
    for name, count in (("no row", 0), ("more than one row", 2)):
        for image_id in np.flatnonzero(seen == count)[:3]:
            result.note(f"image {image_id} has {name}")
    return result


def _row_problems(row: dict[str, Any]) -> Iterator[str]:
    if row["num_masks"] != len(row["masks"]):
        yield f"num_masks is {row['num_masks']} but there are {len(row['masks'])} masks"
    if row["status"] == "ok" and (row["error"] or None in (row["height"], row["width"])):
        yield "status ok needs a height and a width, and no error"
    if row["status"] != "ok" and (row["masks"] or not row["error"]):
        yield f"status {row['status']} needs an error and no masks"
    for index, mask in enumerate(row["masks"]):
        # Before decoding, which allocates what the size asks for.
        if mask["segmentation"]["size"] != [row["height"], row["width"]]:
            yield f"mask {index} has size {mask['segmentation']['size']}, the image {row['height']}x{row['width']}"
            continue
        try:
            pixels = coco_mask.decode(mask["segmentation"])
        except Exception as error:  # noqa: BLE001  pycocotools raises several types on malformed counts
            yield f"mask {index} does not decode: {one_line(error)}"
            continue
        if int(pixels.sum()) != mask["area"]:
            yield f"mask {index} has {int(pixels.sum())} pixels, its area says {mask['area']}"
        elif (bbox := _bbox(pixels)) != mask["bbox"]:
            yield f"mask {index} spans {bbox}, its bbox says {mask['bbox']}"


def _bbox(pixels: Any) -> list[int]:
    """[x, y, w, h] with w and h from first to last pixel; zeros for an empty mask, as the official generator does."""
    columns, rows = np.flatnonzero(pixels.any(axis=0)), np.flatnonzero(pixels.any(axis=1))
    if not len(columns):
        return [0, 0, 0, 0]
    return [int(columns[0]), int(rows[0]), int(columns[-1] - columns[0]), int(rows[-1] - rows[0])]
