"""What an export writes, and how: the settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sam_pipeline.config.base import Settings, check, check_place

ExportFormat = Literal[
    "coco", "coco-results", "sa1b", "amg", "yolo-seg", "yolo-box", "png", "labelme", "webdataset", "hf"
]
Bbox = Literal["mask", "prompt"]
Segmentation = Literal["rle", "polygon"]
PolygonParts = Literal["bridge", "split", "largest"]
ExportedImages = Literal["none", "symlink", "copy"]


@dataclass(frozen=True, kw_only=True)
class ExportSettings(Settings):
    """What an export writes. Which masks it writes is a MaskSelection."""

    format: ExportFormat
    """The format."""
    categories: str | None = None
    """Names of the categories: a COCO file, a data.yaml, or a text file with a name a line. Default: those of the file
    that the prompts or images came from; masks without a category are of the category object."""
    bbox: Bbox = "mask"
    """The boxes that are written: those of the masks, or those that they were prompted with, where there is one."""
    segmentation: Segmentation = "rle"
    """How coco writes masks: as compressed RLE, which is exact, or as polygons."""
    parts: PolygonParts = "bridge"
    """How a mask with several parts or holes becomes polygons: one line that bridges join (bridge), a polygon for
    each part (split), or a polygon of the largest part alone (largest)."""
    simplify: float = 0.0
    """How far, in pixels, a polygon may leave the edge of its mask, for fewer points."""
    convert_to_rle: bool = False
    """How amg writes masks, as scripts/amg.py has it: a JSON file with RLE for each image instead of PNG files."""
    images: ExportedImages = "none"
    """The images beside the annotations: none, links to those on this machine, or copies."""
    split: float | None = None
    """Share of the images that goes into train; the others go into val. Default: no division."""
    seed: int = 0
    """Decides which images go into train: the same seed, the same images."""
    reviewed: str | None = None
    """The file that the page of `report --review` writes: images and masks that it drops are left out."""
    keep_empty: bool = True
    """Export images without a mask too."""
    shard_images: int | None = None
    """Images in each file, for formats that put many into one. Default: that of the format."""
    overwrite: bool = False
    """Replace an earlier export: only files that it wrote are deleted."""

    def __post_init__(self) -> None:
        """Raises ConfigError naming the first setting that is out of range."""
        super().__post_init__()
        check_place("categories", self.categories)
        check_place("reviewed", self.reviewed)
        check(0 <= self.simplify < 1e6, "simplify", "a number of pixels, at least 0", self.simplify)
        check(self.split is None or 0 < self.split < 1, "split", "between 0 and 1", self.split)
        is_count = self.shard_images is None or 1 <= self.shard_images < 2**31
        check(is_count, "shard_images", "from 1 to 2147483647", self.shard_images)
