"""How many masks a stricter threshold would keep: what can be chosen afterwards, without a GPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sam_pipeline.report.counting.mask_numbers import MaskNumbers

ThresholdSetting = Literal["pred_iou_thresh", "stability_score_thresh"]

_THRESHOLDS = np.arange(201) / 200


@dataclass(frozen=True)
class ThresholdCurve:
    """What would be left of the masks that were counted, for each value of one setting of the selection."""

    setting: ThresholdSetting
    thresholds: tuple[float, ...]
    """From 0 to 1, ascending."""
    num_masks: tuple[int, ...]
    """Masks that each threshold keeps."""
    num_images: tuple[int, ...]
    """Images that keep one mask at least."""


class ThresholdCounter:
    """Counts masks by the number of thresholds that they pass, exactly as a selection compares.

    Args:
        setting: pred_iou_thresh, which values must be above, or stability_score_thresh, which may be equal.
    """

    def __init__(self, setting: ThresholdSetting) -> None:
        self._setting: ThresholdSetting = setting
        self._field = {"pred_iou_thresh": "predicted_iou", "stability_score_thresh": "stability_score"}[setting]
        self._side: Literal["left", "right"] = "left" if setting == "pred_iou_thresh" else "right"
        self._masks, self._images = (np.zeros(len(_THRESHOLDS) + 1, dtype=np.int64) for _ in range(2))

    def add(self, numbers: MaskNumbers) -> None:
        """Count the masks of some images."""
        values = numbers.of_masks(self._field)
        # In float32, as the generator and the selection do.
        num_passed = np.searchsorted(_THRESHOLDS.astype(np.float32), values.astype(np.float32), side=self._side)
        num_passed[np.isnan(values)] = 0
        num_passed = np.maximum(num_passed, 1)  # a threshold of 0 drops nothing, as in a selection
        self._masks += self._counted(num_passed)
        self._images += self._counted(numbers.most_by_image(num_passed))

    def curve(self) -> ThresholdCurve:
        """What was counted so far."""
        return ThresholdCurve(
            self._setting, tuple(_THRESHOLDS.tolist()), _with_more(self._masks), _with_more(self._images)
        )

    def _counted(self, num_passed: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.bincount(num_passed, minlength=len(self._masks))


def _with_more(counts: NDArray[np.int64]) -> tuple[int, ...]:
    """For each threshold how many passed more thresholds than come before it."""
    return tuple((counts.sum() - np.cumsum(counts))[:-1].tolist())
