"""How masks are found on a grid of points, and which of them are kept."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sam_pipeline.config.base import Settings, check


@dataclass(frozen=True, kw_only=True)
class MaskConfig(Settings):
    """Settings of the automatic mask generator; names and defaults are those of the official generator."""

    points_per_side: int = 32
    """Points along one side of the prompt grid; points_per_side**2 prompts an image."""
    points_per_batch: int = 64
    """Prompts decoded at once on a CPU; a GPU takes up to 1,024, whatever this says. No mask changes."""
    pred_iou_thresh: float = 0.88
    """Keep masks whose predicted IoU is above this; 0 keeps all."""
    stability_score_thresh: float = 0.95
    """Keep masks whose stability score is at least this; 0 keeps all."""
    stability_score_offset: float = 1.0
    """Shift of the mask threshold, in logits, when the stability score is computed."""
    box_nms_thresh: float = 0.7
    """Box IoU above which non-maximum suppression drops the lower-scoring mask of a crop."""
    crop_n_layers: int = 0
    """Layers of image crops to run in addition to the whole image; layer i has (2**i)**2 crops."""
    crop_nms_thresh: float = 0.7
    """Box IoU above which non-maximum suppression between crops drops the mask of the larger crop."""
    crop_overlap_ratio: float = 512 / 1500
    """Overlap of the crops of the first layer, as a share of the image's shorter side."""
    crop_n_points_downscale_factor: int = 1
    """points_per_side is divided by this**i in crop layer i."""
    min_mask_region_area: int = 0
    """Remove holes and islands smaller than this many pixels; 0 leaves masks as they are."""

    def __post_init__(self) -> None:
        """Raises ConfigError naming the first setting that is out of range."""
        super().__post_init__()
        for name in ("points_per_side", "points_per_batch", "crop_n_points_downscale_factor"):
            check(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        for name in ("crop_n_layers", "min_mask_region_area", "stability_score_offset"):
            check(getattr(self, name) >= 0, name, "at least 0", getattr(self, name))
        check(
            math.isfinite(self.stability_score_offset), "stability_score_offset", "finite", self.stability_score_offset
        )
        # Predicted IoU is a regression and may exceed 1, but official users' thresholds lie in [0, 1].
        for name in ("pred_iou_thresh", "stability_score_thresh", "box_nms_thresh", "crop_nms_thresh"):
            check(0 <= getattr(self, name) <= 1, name, "in [0, 1]", getattr(self, name))
        check(0 <= self.crop_overlap_ratio < 1, "crop_overlap_ratio", "in [0, 1)", self.crop_overlap_ratio)
        points = self.points_per_side
        check(points <= 1024, "points_per_side", "at most 1024 (a million prompts)", points)
        check(self.crop_n_layers <= 4, "crop_n_layers", "at most 4 (341 crops an image)", self.crop_n_layers)
        finest = self.points_per_side // self.crop_n_points_downscale_factor**self.crop_n_layers
        check(
            finest >= 1,
            "points_per_side",
            f"at least crop_n_points_downscale_factor**crop_n_layers = "
            f"{self.crop_n_points_downscale_factor**self.crop_n_layers}",
            self.points_per_side,
        )
