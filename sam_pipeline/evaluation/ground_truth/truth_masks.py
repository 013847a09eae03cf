"""Annotations of COCO as masks, boxes and areas."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypedDict, TypeGuard

import numpy as np
from pycocotools import mask as coco_mask

from sam_pipeline.storage.inputs.file_numbers import is_real

MOST_COORDINATE = 100_000
"""In pixels. Polygons beyond it would be drawn in more memory than an image has."""


MOST_AREA = 1e10
"""In pixels. COCO's figures leave out what is larger, and what is below 0."""


class TruthError(ValueError):
    """An annotation that is not what COCO's format says."""


class TruthMask(TypedDict):
    """An object of the ground truth, with the fields that evaluation looks at."""

    category_id: int
    iscrowd: int
    area: float
    """As the file says, or else of the mask or box; it decides whether the object is small, medium or large."""
    bbox: list[float]
    """[x, y, w, h] in pixels."""
    segmentation: dict[str, Any] | None
    """Compressed RLE; None for a box alone."""


def truth_mask(annotation: Mapping[str, Any], category_id: int, size_hw: tuple[int, int]) -> TruthMask:
    """The object that an annotation describes.

    Args:
        annotation: of a COCO file, as it is.
        category_id: what it is compared as.
        size_hw: height and width of its image.

    Raises:
        TruthError: saying what is wrong with it.
    """
    segmentation = _rle(annotation.get("segmentation"), *size_hw)
    bbox = annotation.get("bbox")
    if bbox is None and segmentation is not None:
        bbox = coco_mask.toBbox(segmentation).tolist()
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(map(_is_finite, bbox)) or min(bbox[2:]) < 0:
        raise TruthError("its bbox is not [x, y, w, h]" if bbox is not None else "it has neither a mask nor a bbox")
    area = annotation.get("area")
    if not _is_finite(area):
        area = bbox[2] * bbox[3] if segmentation is None else coco_mask.area(segmentation)
    if not 0 <= area <= MOST_AREA:
        raise TruthError(f"its area is {area:g}")
    return {
        "category_id": category_id,
        "iscrowd": int(annotation.get("iscrowd") in (1, True)),
        "area": float(area),
        "bbox": [float(value) for value in bbox],
        "segmentation": segmentation,
    }


def _is_finite(value: object) -> TypeGuard[float]:
    return is_real(value) and math.isfinite(value)


def _rle(segmentation: object, height: int, width: int) -> dict[str, Any] | None:
    """Compressed RLE of polygons or RLE; None where there is none."""
    if segmentation in (None, [], {}):
        return None
    if isinstance(segmentation, list):
        if not all(map(_is_polygon, segmentation)):
            raise TruthError("its polygons are not lists [x, y, x, y, …]")
        drawn = [polygon for polygon in segmentation if len(polygon) >= 6]  # fewer than three points hold no pixel
        if not drawn:
            return None
        merged: dict[str, Any] = coco_mask.merge(coco_mask.frPyObjects(drawn, height, width))
        return merged
    if not isinstance(segmentation, dict):
        raise TruthError("its segmentation is neither polygons nor RLE")
    if segmentation.get("size") != [height, width]:
        raise TruthError(f"its RLE has the size {segmentation.get('size')}, and its image {[height, width]}")
    counts = segmentation.get("counts")
    lengths = _run_lengths(counts)
    if lengths is None or (lengths < 0).any() or int(lengths.sum()) != height * width:
        raise TruthError("the counts of its RLE do not add up to its image")
    if isinstance(counts, str):
        return {"size": [height, width], "counts": counts.encode()}
    compressed: dict[str, Any] = coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    return compressed


def _is_polygon(values: object) -> bool:
    return (
        isinstance(values, list)
        and len(values) % 2 == 0
        and all(is_real(value) and abs(value) <= MOST_COORDINATE for value in values)
    )


def _run_lengths(counts: object) -> np.ndarray[Any, np.dtype[np.int64]] | None:
    """The run lengths of RLE, compressed (text) or not (a list); None for anything else.

    pycocotools does not look whether they fit the image, and writes where they say.
    """
    if isinstance(counts, list):
        whole = all(isinstance(count, int) and not isinstance(count, bool) and 0 <= count < 2**31 for count in counts)
        return np.array(counts, np.int64) if whole else None
    if not isinstance(counts, str) or not counts.isascii():
        return None
    characters = np.frombuffer(counts.encode(), np.uint8).astype(np.int64) - 48
    if not len(characters) or characters.min() < 0 or characters.max() > 63 or characters[-1] & 32:
        return None
    # Six bits a character: five of the number, the lowest first, and one that says that more follow.
    starts = np.flatnonzero(np.concatenate([[True], characters[:-1] & 32 == 0]))
    sizes = np.diff(np.append(starts, len(characters)))
    if sizes.max() > 7:
        return None
    places = np.arange(len(characters)) - np.repeat(starts, sizes)
    values = np.add.reduceat((characters & 31) << (5 * places), starts)
    is_negative = characters[starts + sizes - 1] & 16 != 0
    values -= np.where(is_negative, np.int64(1) << (5 * sizes), 0)
    # From the fourth on, each is the difference from the one before the last.
    lengths = values.copy()
    lengths[1::2] = np.cumsum(values[1::2])
    lengths[2::2] = np.cumsum(values[2::2])
    return lengths
