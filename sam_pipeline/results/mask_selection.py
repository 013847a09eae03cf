"""Which masks of a run are wanted: the settings, and their check against those of the run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sam_pipeline.config.base import Settings, check
from sam_pipeline.errors import ConfigError

MaskSource = Literal["all", "grid", "prompts"]
Contained = Literal["none", "outer", "parts"]


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
        check(self.min_area is None or self.min_area >= 0, "min_area", "at least 0", self.min_area)
        check(self.max_masks is None or self.max_masks >= 1, "max_masks", "at least 1", self.max_masks)

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
        if fingerprint.get("mode") == "prompted":
            return  # there the thresholds of the grid have dropped nothing
        for name, is_lower_looser in (
            ("pred_iou_thresh", True),
            ("stability_score_thresh", True),
            ("box_nms_thresh", False),
        ):
            wanted, stored = getattr(self, name), fingerprint.get(name)
            if wanted is None or stored is None or wanted == stored:
                continue
            if (wanted < stored) == is_lower_looser:
                raise ConfigError(
                    f"{name} = {wanted:g} is looser than the run's {stored:g}: what the run has dropped is not there; "
                    "annotate with the looser value, and select afterwards"
                )
