"""Settings of what is made of a run as keywords, for type checkers; their classes say what each means."""

from typing import TypedDict

from sam_pipeline.config.keywords import StrPath
from sam_pipeline.evaluation.settings import RankBy
from sam_pipeline.exports.settings import Bbox, ExportedImages, PolygonParts, Segmentation


class ExportKeywords(TypedDict, total=False):
    """The settings of exports.settings.ExportSettings but for the format, by name."""

    categories: StrPath | None
    bbox: Bbox
    segmentation: Segmentation
    parts: PolygonParts
    simplify: float
    convert_to_rle: bool
    images: ExportedImages
    split: float | None
    seed: int
    reviewed: StrPath | None
    keep_empty: bool
    shard_images: int | None
    overwrite: bool


class EvaluationKeywords(TypedDict, total=False):
    """The settings of evaluation.settings.EvaluationSettings but for the ground truth, by name."""

    iou: list[str] | tuple[str, ...]
    rank_by: RankBy
    class_agnostic: bool
    categories: StrPath | None
