"""Which prompts and regions a run has, and how their files are read."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from sam_pipeline.config.base import Settings, check, check_place
from sam_pipeline.errors import ConfigError

BboxFormat = Literal["xywh", "xyxy"]


@dataclass(frozen=True, kw_only=True)
class PromptConfig(Settings):
    """Which objects to make masks of."""

    prompts: str | None = None
    """Boxes or points to make masks of: COCO results or annotations (.json), Parquet or JSON Lines with bbox, score,
    category_id, point_coords, point_labels, mask_input, or a folder of YOLO labels. In each row the first of uri, url,
    image_uri, image_path, path, file_name, image, key and image_id that holds something names the image. Frozen with
    the plan."""
    prompt_images: str | None = None
    """COCO file whose `images` say which file_name each image_id of the prompts and regions stands for."""
    bbox_format: BboxFormat = "xywh"
    """What bbox holds in prompts and regions: x, y, width, height as in COCO, or two corners, xyxy; in pixels of the
    image after its EXIF orientation."""
    min_score: float | None = None
    """Prompts with a lower score, or with none, are left out."""
    regions: str | None = None
    """Regions of interest that the grid of an image is limited to: a file as for prompts, with bbox or polygon. Images
    that it does not name keep the whole grid."""

    @property
    def is_given(self) -> bool:
        """Whether there are prompts or regions."""
        return self.prompts is not None or self.regions is not None

    def __post_init__(self) -> None:
        """Raises ConfigError if a setting is out of range, or is about prompts that are not given."""
        super().__post_init__()
        for name in ("prompts", "prompt_images", "regions"):
            check_place(name, getattr(self, name))
        check(self.min_score is None or math.isfinite(self.min_score), "min_score", "a number", self.min_score)
        if self.min_score is not None and self.prompts is None:
            raise ConfigError("min_score chooses among prompts: say which with --prompts")
        if self.bbox_format != "xywh" and not self.is_given:
            raise ConfigError("bbox_format says how prompts are read: say which with --prompts or --regions")
        if self.prompt_images is not None and not self.is_given:
            raise ConfigError("prompt_images names the images of prompts: say which with --prompts")
