"""The figures of an evaluation, as they are printed and stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sam_pipeline.evaluation.best_matches import FOUND_AT, BestMatches
from sam_pipeline.evaluation.coco_evaluator import MAX_DETS, SIZES
from sam_pipeline.evaluation.pairing import ComparedImage, Counts
from sam_pipeline.evaluation.settings import IouKind

AP_MAX_DETS = 100
"""Masks of an image that average precision looks at, as in COCO's own summary."""

Figures = dict[str, float | None]
"""By name: AP, AP50, AP75, AP_small, …, AR@1, AR@1_small, …, AR@1000_large, mean_best_iou, recall_50, recall_75.
None where there is no object to measure it by."""


def figures(precision: NDArray[np.float64], recall: NDArray[np.float64], matches: BestMatches) -> Figures:
    """All figures of one kind of IoU.

    Args:
        precision: (10, 101, K, 4, 4), as CocoEvaluator.accumulate returns it.
        recall: (10, K, 4, 4).
        matches: of all images.
    """
    of_ap = precision[..., MAX_DETS.index(AP_MAX_DETS)]
    found: Figures = {"AP": _mean(of_ap[..., 0]), "AP50": _mean(of_ap[0, ..., 0]), "AP75": _mean(of_ap[5, ..., 0])}
    found |= {f"AP_{size}": _mean(of_ap[..., place]) for place, size in enumerate(SIZES) if place}
    for column, max_dets in enumerate(MAX_DETS):
        for place, size in enumerate(SIZES):
            name = f"AR@{max_dets}" if size == "all" else f"AR@{max_dets}_{size}"
            found[name] = _mean(recall[..., place, column])
    return found | _of_matches(matches)


def _of_matches(matches: BestMatches) -> Figures:
    shares = zip(FOUND_AT, matches.recall, strict=True)
    return {"mean_best_iou": matches.mean_best_iou} | {
        f"recall_{threshold * 100:.0f}": share for threshold, share in shares
    }


def _mean(values: NDArray[np.float64]) -> float | None:
    """Over categories that have objects, which are those that are not -1."""
    measured = values[values > -1]
    return float(measured.mean()) if measured.size else None


@dataclass(frozen=True)
class ImageFigures:
    """What one image's masks are worth for its objects."""

    image: ComparedImage
    num_masks: int
    matches: Mapping[IouKind, BestMatches]
    """By kind of IoU."""

    def by_name(self) -> dict[str, Any]:
        """One line of the table of images."""
        row: dict[str, Any] = {
            "image_id": self.image.image_id,
            "ground_truth_id": self.image.truth.image_id,
            "uri": self.image.uri,
            "status": self.image.status,
            "num_masks": self.num_masks,
            "num_objects": max((each.num_objects for each in self.matches.values()), default=0),
        }
        for kind, each in self.matches.items():
            row |= {f"{kind}_{name}": value for name, value in _of_matches(each).items()}
        return row


@dataclass(frozen=True)
class Evaluation:
    """How a run compares with ground truth."""

    output: str
    ground_truth: str
    selection: Mapping[str, Any]
    """Settings that choose masks, by name; those not in it are as the run has them."""
    rank_by: str
    class_agnostic: bool
    counts: Counts
    figures: Mapping[IouKind, Figures]
    """By kind of IoU."""
    by_category: Sequence[Mapping[str, Any]]
    """id and name of each category that has objects, and AP, AP50, AP75, AR@100 and AR@1000 by kind, as mask_AP;
    none if class-agnostic."""
    images: Sequence[ImageFigures]
    """In the order of image_id."""

    def worst_images(self, num_images: int = 20) -> list[ImageFigures]:
        """The images that match worst: by the mean best IoU of masks, or of boxes where there are none."""

        def mean_best_iou(each: ImageFigures) -> float:
            first = next(iter(each.matches.values())).mean_best_iou
            return 2.0 if first is None else first  # without objects nothing is missed

        ordered = sorted(self.images, key=mean_best_iou)
        return [each for each in ordered[:num_images] if mean_best_iou(each) <= 1]

    def by_name(self) -> dict[str, Any]:
        """All of it but the single images, as JSON takes it."""
        counts = {name.removeprefix("num_"): value for name, value in vars(self.counts).items() if name != "images"}
        return {
            "output": self.output,
            "ground_truth": self.ground_truth,
            "selection": dict(self.selection),
            "rank_by": self.rank_by,
            "class_agnostic": self.class_agnostic,
            "ap_max_dets": AP_MAX_DETS,
            "counts": {"images": self.counts.images.total(), "images_by_status": dict(self.counts.images), **counts},
            "figures": {kind: dict(found) for kind, found in self.figures.items()},
            "by_category": [dict(each) for each in self.by_category],
            "worst_images": [each.by_name() for each in self.worst_images()],
        }
