"""How well the objects of an image are matched: the best IoU of each, and how many are found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sam_pipeline.evaluation.coco_evaluator import Ious
from sam_pipeline.evaluation.ground_truth.truth_masks import TruthMask

FOUND_AT = (0.5, 0.75)
"""IoU from which on an object counts as found."""


@dataclass(frozen=True)
class BestMatches:
    """How well objects of one image or of many are matched, crowds apart."""

    num_objects: int
    sum_best_iou: float
    """Over objects, the highest IoU with any mask of their category, of the 1000 that are ranked first."""
    num_found: tuple[int, ...]
    """At each of FOUND_AT."""

    @property
    def mean_best_iou(self) -> float | None:
        """None without objects."""
        return self.sum_best_iou / self.num_objects if self.num_objects else None

    @property
    def recall(self) -> tuple[float | None, ...]:
        """Share of objects found at each of FOUND_AT; None without objects."""
        return tuple(found / self.num_objects if self.num_objects else None for found in self.num_found)


def best_matches(number: int, truth: Sequence[TruthMask], ious: Ious) -> BestMatches:
    """How well an image's masks match its objects.

    Args:
        number: of the image in ious.
        truth: its objects, of all categories.
        ious: by image and category.
    """
    by_category: dict[int, list[bool]] = {}
    for each in truth:
        by_category.setdefault(each["category_id"], []).append(bool(each["iscrowd"]))
    num_objects, sum_best, num_found = 0, 0.0, [0] * len(FOUND_AT)
    for category, is_crowd in by_category.items():
        is_object = ~np.array(is_crowd)
        num_objects += int(is_object.sum())
        if (found := ious.get((number, category))) is None or not is_object.any():
            continue
        of_objects = found[:, is_object]
        sum_best += float(of_objects.max(axis=0).sum())
        for place, threshold in enumerate(FOUND_AT):
            num_found[place] += _num_found(of_objects, threshold)
    return BestMatches(num_objects, sum_best, tuple(num_found))


def total(matches: Sequence[BestMatches]) -> BestMatches:
    """The matches of several images as one."""
    return BestMatches(
        sum(each.num_objects for each in matches),
        sum(each.sum_best_iou for each in matches),
        tuple(sum(each.num_found[place] for each in matches) for place in range(len(FOUND_AT))),
    )


def _num_found(ious: NDArray[np.float64], threshold: float) -> int:
    """Objects that COCO's matching finds: each mask, from the highest score on, takes the free object it meets best."""
    is_free = np.ones(ious.shape[1], bool)
    for row in ious[(ious >= threshold).any(axis=1)]:
        if not is_free.any():
            break
        best = int(np.argmax(np.where(is_free, row, -1.0)))
        is_free[best] &= row[best] < threshold
    return int((~is_free).sum())
