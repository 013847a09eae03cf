"""How a run is compared with ground truth: the settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from sam_pipeline.config.base import Settings, check

IouKind = Literal["mask", "box", "boundary"]
RankBy = Literal["auto", "predicted_iou", "stability_score", "mean", "score"]

IOU_KINDS: tuple[IouKind, ...] = get_args(IouKind)


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings(Settings):
    """What masks are compared with, and how."""

    ground_truth: str
    """COCO annotation file: polygons or RLE, crowds, or boxes alone. Images are found by their file_name."""
    iou: tuple[str, ...] = ()
    """Kinds of IoU: mask, box, boundary. Default: all three. The boundary is a band within the mask, as wide as 0.02 of
    the image's diagonal; it takes most of the time."""
    rank_by: RankBy = "auto"
    """What orders the masks of all images: predicted_iou, stability_score, the mean of both, or the score of the
    detector. Default: the score where every mask has one, else predicted_iou."""
    class_agnostic: bool = False
    """Compare masks and objects whatever their categories. Always so where masks have no category."""
    categories: str | None = None
    """Names of the run's categories: a COCO file, a data.yaml, or a text file. Default: what the run's prompts or
    images were read from. Categories are matched with those of the ground truth by name, or by number where no names
    are known."""

    def __post_init__(self) -> None:
        """Raises ConfigError naming the first setting that is out of range."""
        super().__post_init__()
        check(set(self.iou) <= set(IOU_KINDS), "iou", f"some of {', '.join(IOU_KINDS)}", self.iou)

    @property
    def kinds(self) -> list[IouKind]:
        """Kinds of IoU wanted, each once."""
        return [kind for kind in IOU_KINDS if kind in self.iou or not self.iou]
