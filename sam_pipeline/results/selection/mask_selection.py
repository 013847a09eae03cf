"""Which masks of a run are wanted: the settings, and their check against those of the run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sam_pipeline.config.base import Settings, check
from sam_pipeline.config.fingerprint import filters_of
from sam_pipeline.errors import ConfigError

MaskSource = Literal["all", "grid", "prompts"]
Contained = Literal["none", "outer", "parts"]

_MOST = 2**63 - 1
"""What a column of integers can hold."""


@dataclass(frozen=True, kw_only=True)
class MaskSelection(Settings):
    """Which masks of which images are wanted. By default all, as they are stored.

    What looks at one mask alone is applied first, then box_nms_thresh, drop_contained and max_masks, in this order.
    """

    pred_iou_thresh: float | None = None
    """Keep masks whose predicted IoU is above this."""
    stability_score_thresh: float | None = None
    """Keep masks whose stability score is at least this."""
    box_nms_thresh: float | None = None
    """Box IoU above which the mask with the lower predicted IoU is dropped, in the whole image."""
    min_score: float | None = None
    """Keep masks whose prompt has at least this score of the detector. Masks without such a score are dropped."""
    min_area: int | None = None
    """Keep masks of at least so many pixels."""
    max_area_share: float | None = None
    """Keep masks that cover at most this share of their image."""
    max_masks: int | None = None
    """Keep at most so many masks of an image: those with the highest predicted IoU."""
    min_box_iou: float | None = None
    """Keep masks whose box has at least this IoU with the box that they were prompted with. Masks without such a box
    are kept."""
    category_ids: tuple[int, ...] = ()
    """Keep masks of these categories. Default: all, also those without a category."""
    source: MaskSource = "all"
    """Keep masks of the grid, or of prompts."""
    drop_contained: Contained = "none"
    """Of masks that lie in one another, keep those that lie in no other (outer), or those that hold no other (parts).
    A mask lies in a larger one if nine tenths of its pixels do."""
    drop_border: bool = False
    """Drop masks that touch the border of their image."""
    include: tuple[str, ...] = ()
    """Only images whose URI, or the end of it, matches one of these patterns: '*.png', 'train/*.jpg', 'train/**'."""
    exclude: tuple[str, ...] = ()
    """No images whose URI, or the end of it, matches one of these patterns."""

    def __post_init__(self) -> None:
        """Raises ConfigError naming the first setting that is out of range."""
        super().__post_init__()
        for name in ("pred_iou_thresh", "stability_score_thresh", "box_nms_thresh", "max_area_share", "min_box_iou"):
            value = getattr(self, name)
            check(value is None or 0 <= value <= 1, name, "in [0, 1]", value)
        check(self.min_score is None or math.isfinite(self.min_score), "min_score", "finite", self.min_score)
        check(self.min_area is None or 0 <= self.min_area <= _MOST, "min_area", f"in [0, {_MOST}]", self.min_area)
        check(self.max_masks is None or 1 <= self.max_masks <= _MOST, "max_masks", f"in [1, {_MOST}]", self.max_masks)
        for category_id in self.category_ids:
            check(abs(category_id) <= _MOST, "each of category_ids", "of 64 bits", category_id)

    @property
    def chooses_masks(self) -> bool:
        """Whether any setting may drop masks of an image that is wanted."""
        return bool(set(self.effective()) - {"include", "exclude"})

    def effective(self) -> dict[str, Any]:
        """The settings that are not their default, by name; what is stored with a filtered run."""
        default = MaskSelection().by_name()
        return {name: value for name, value in self.by_name().items() if value != default[name]}

    def check_against(self, fingerprint: Mapping[str, Any]) -> None:
        """Refuse a choice that a run cannot give.

        Args:
            fingerprint: the run's, with its settings by name.

        Raises:
            ConfigError: a threshold is looser than the run's.
        """
        if fingerprint.get("mode") != "prompted":  # there the thresholds of the grid have dropped nothing
            self._check_stricter({name: fingerprint.get(name) for name in _OF_THE_GRID}, "annotate")
        for each in filters_of(fingerprint):
            self._check_stricter(each["selection"], f"filter {each['source']}")

    def _check_stricter(self, stored: Mapping[str, Any], command: str) -> None:
        """Refuse what is looser than settings that have dropped masks.

        Args:
            stored: the settings, by name.
            command: what is to be called with the looser value.
        """
        for name, wanted in self.effective().items():
            has = stored.get(name)
            if has is not None and name not in ("include", "exclude") and _is_looser(name, wanted, has):
                raise ConfigError(
                    f"{name} = {_text(wanted)} is looser than the run's {_text(has)}: what the run has dropped is not "
                    f"there; {command} with the looser value, and select afterwards"
                )


_OF_THE_GRID = ("pred_iou_thresh", "stability_score_thresh", "box_nms_thresh")
_LOOSER_IF_HIGHER = ("box_nms_thresh", "max_area_share", "max_masks")


def _is_looser(name: str, wanted: Any, stored: Any) -> bool:
    if name == "category_ids":
        return not set(wanted) <= set(stored)
    if isinstance(wanted, str):  # of prompts or of the grid, outer masks or parts: the others are not there
        return bool(wanted != stored)
    return bool(wanted > stored if name in _LOOSER_IF_HIGHER else wanted < stored)


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
