"""What an export has written, left out and lost, in numbers that add up over its parts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

_BINS = 2000
# Notes of exports store these names: an export that an earlier version began goes on from them.
_COUNTERS = ("images_left_out", "masks_left_out", "met_of_review", "warnings")


@dataclass
class Loss:
    """What a format makes of masks: the IoU of each with itself, drawn again from what was written."""

    num_masks: int = 0
    sum_iou: float = 0.0
    bins: Counter[int] = field(default_factory=Counter)
    """How many masks have an IoU of a bin, of which there are 2000 from 0 to 1."""

    def add(self, ious: ArrayLike) -> None:
        """Count masks.

        Args:
            ious: (N,) in [0, 1].
        """
        found = np.asarray(ious, dtype=np.float64)
        self.num_masks += len(found)
        self.sum_iou += float(found.sum())
        bins, counts = np.unique(np.floor(found * _BINS).astype(int), return_counts=True)
        self.bins.update(dict(zip(bins.tolist(), counts.tolist(), strict=True)))

    def mean(self) -> float:
        """Mean IoU; 1 of no masks."""
        return self.sum_iou / self.num_masks if self.num_masks else 1.0

    def percentile(self, percent: float) -> float:
        """The IoU that so many percent of the masks do not reach, to 1/2000; 1 of no masks."""
        left = percent / 100 * self.num_masks
        for number in sorted(self.bins):
            left -= self.bins[number]
            if left < 0:
                return number / _BINS
        return 1.0

    def merge(self, other: Loss) -> None:
        """Add what another one has counted."""
        self.num_masks += other.num_masks
        self.sum_iou += other.sum_iou
        self.bins.update(other.bins)


@dataclass
class Report:
    """What was written of some images."""

    num_images: int = 0
    """Images in the export."""
    num_masks: int = 0
    """Masks in the export."""
    images_left_out: Counter[str] = field(default_factory=Counter)
    """Images of the run that are not, by reason."""
    masks_left_out: Counter[str] = field(default_factory=Counter)
    """Masks of the exported images that are not, by reason."""
    met_of_review: Counter[str] = field(default_factory=Counter)
    """Images and masks that the review drops and the export found."""
    warnings: Counter[str] = field(default_factory=Counter)
    """Warnings about the export, by text: how many masks or images each concerns."""
    loss: Loss = field(default_factory=Loss)

    def leave_out(self, reason: str, num_masks: int) -> None:
        """Count masks that a format cannot hold, of those that it was given."""
        if num_masks:
            self.masks_left_out[reason] += num_masks
            self.num_masks -= num_masks

    def warn(self, what: str, count: int) -> None:
        """Count what the user should know of; 0 is nothing."""
        if count:
            self.warnings[what] += count

    def merge(self, other: Report) -> None:
        """Add what was written of other images."""
        self.num_images += other.num_images
        self.num_masks += other.num_masks
        self.images_left_out.update(other.images_left_out)
        self.masks_left_out.update(other.masks_left_out)
        self.met_of_review.update(other.met_of_review)
        self.warnings.update(other.warnings)
        self.loss.merge(other.loss)

    def to_json(self) -> dict[str, Any]:
        """As JSON takes it."""
        counters = {name: dict(getattr(self, name)) for name in _COUNTERS}
        loss = {"num_masks": self.loss.num_masks, "sum_iou": self.loss.sum_iou, "bins": dict(self.loss.bins)}
        return {"num_images": self.num_images, "num_masks": self.num_masks, **counters, "loss": loss}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Report:
        """What to_json gave, after a visit to JSON, where all keys are strings."""
        loss = stored["loss"]
        bins = Counter({int(number): count for number, count in loss["bins"].items()})
        counters = {name: Counter(stored[name]) for name in _COUNTERS}
        loss = Loss(loss["num_masks"], loss["sum_iou"], bins)
        return cls(stored["num_images"], stored["num_masks"], **counters, loss=loss)
