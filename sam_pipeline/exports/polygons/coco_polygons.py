"""Masks as COCO's lists of polygons."""

from __future__ import annotations

import json

import pyarrow as pa

from sam_pipeline.exports.polygons.polygons import Parts, mask_polygons
from sam_pipeline.exports.polygons.redrawing import coco_iou
from sam_pipeline.exports.texts.json_text import Texts
from sam_pipeline.masks.runs.rle import Rle


def polygon_texts(masks: pa.StructArray, parts: Parts, simplify: float) -> tuple[Texts, list[float]]:
    """The polygons of masks as JSON, [[x, y, x, y, …], …] each, (N,); and what drawing them again gives.

    A mask without a pixel has no polygon, and stays RLE.

    Args:
        masks: as they are stored, (N,).
        parts: see mask_polygons.
        simplify: see mask_polygons.

    Returns:
        The texts, and the IoU of each mask with its polygons drawn again.
    """
    found = [_text_and_iou(mask, parts, simplify) for mask in masks.field("segmentation").to_pylist()]
    return [pa.array([text for text, _ in found], pa.string())], [iou for _, iou in found]


def _text_and_iou(mask: Rle, parts: Parts, simplify: float) -> tuple[str, float]:
    polygons = mask_polygons(mask, parts=parts, corners="edges", simplify=simplify)
    if not polygons:
        return json.dumps(mask, separators=(",", ":")), 1.0
    # Edges of pixels are whole numbers.
    lists = [polygon.astype(int).reshape(-1).tolist() for polygon in polygons]
    return json.dumps(lists, separators=(",", ":")), coco_iou(mask, polygons)
