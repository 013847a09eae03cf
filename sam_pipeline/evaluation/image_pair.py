"""An image with the masks of a run and the objects of the ground truth, as batches of them are compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypedDict

from sam_pipeline.evaluation.ground_truth.truth_masks import TruthMask
from sam_pipeline.evaluation.settings import IouKind


class RankedMask(TypedDict):
    """A mask of the run, with the fields that evaluation looks at."""

    category_id: int
    score: float
    area: int
    bbox: list[float]
    """[x, y, w, h] in pixels, which covers the mask: w and h are pixel counts, as COCO's."""
    segmentation: dict[str, Any]
    """Compressed RLE."""


@dataclass(frozen=True)
class ImagePair:
    """What is compared of one image."""

    number: int
    """Where the image stands in the order of the ground truth, from 1."""
    size_hw: tuple[int, int]
    truth: list[TruthMask]
    masks: list[RankedMask]

    def truth_of(self, kind: IouKind) -> list[TruthMask]:
        """The objects that have what a kind of IoU compares."""
        return self.truth if kind == "box" else [each for each in self.truth if each["segmentation"] is not None]
