"""Checking what a file says of one prompt, value by value: a row of KEYED_PROMPTS, or one that says what is wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

import numpy as np

from sam_pipeline.config import BboxFormat
from sam_pipeline.safety.clean_text import is_encodable
from sam_pipeline.storage.inputs.file_numbers import as_number, file_id, is_real, whole_number
from sam_pipeline.storage.prompts.prompt_rows import MASK_INPUT_SIZE, Row

_MASK_SHAPES = ((MASK_INPUT_SIZE**2,), (MASK_INPUT_SIZE, MASK_INPUT_SIZE), (1, MASK_INPUT_SIZE, MASK_INPUT_SIZE))


def prompt_row(key: object, prompt_id: int, fields: Mapping[str, Any], bbox_format: BboxFormat) -> Row:
    """A prompt.

    Args:
        key: the image, in the file's words; not its id, unless the caller corrects is_image_id.
        prompt_id: of the prompt.
        fields: bbox, point_coords, point_labels, mask_input, category_id, score; those that there are.
        bbox_format: of bbox.
    """
    row = _row(key, prompt_id)
    try:
        row["score"] = _score(fields.get("score"))
        row["category_id"] = _category(fields.get("category_id"))
        row["box_xyxy"] = _box(fields.get("bbox"), bbox_format)
        row["point_coords"] = _points(fields.get("point_coords"), "point_coords", at_least=1)
        row["point_labels"] = _labels(fields.get("point_labels"), row["point_coords"])
        row["mask_input"] = _logits(fields.get("mask_input"))
        if all(row[name] is None for name in ("box_xyxy", "point_coords", "mask_input")):
            raise ValueError("a prompt needs a bbox, point_coords or a mask_input")
    except ValueError as error:
        return bad_row(row, str(error))
    return row


def region_row(key: object, prompt_id: int, fields: Mapping[str, Any], bbox_format: BboxFormat) -> Row:
    """A region of interest; of fields polygon and bbox are used."""
    row = _row(key, prompt_id)
    try:
        row["polygon"] = _points(fields.get("polygon"), "polygon", at_least=3)
        if row["polygon"] is None:
            row["box_xyxy"] = _box(fields.get("bbox"), bbox_format)
        if row["polygon"] is None and row["box_xyxy"] is None:
            raise ValueError("a region needs a polygon or a bbox")
    except ValueError as error:
        return bad_row(row, str(error))
    return row


def bad_row(row: Row, error: str) -> Row:
    """The same prompt without all that describes an object, and what is wrong with it."""
    nothing = dict.fromkeys(("box_xyxy", "point_coords", "point_labels", "mask_input", "polygon"))
    return row | nothing | {"error": error}


def text_key(key: object) -> str | None:
    """What names an image, as text; None for anything but text and whole numbers, which may be floats."""
    known = file_id(key)
    text = None if known is None else str(known)
    return text if text is not None and is_encodable(text) else None


def _row(key: object, prompt_id: int) -> Row:
    known = {"key": text_key(key), "is_image_id": False, "prompt_id": prompt_id, "is_relative": False}
    return known | {"category_id": None, "score": None}


def _category(value: object) -> int | None:
    if _is_missing(value):
        return None
    category_id = whole_number(as_number(value))
    if category_id is None:
        raise ValueError(f"category_id must be a whole number, is {value!r:.40}")
    return category_id


def _score(value: object) -> float | None:
    if _is_missing(value):
        return None
    score = as_number(value)
    if not is_real(score) or not math.isfinite(score):
        raise ValueError(f"score must be a number, is {value!r:.40}")
    return float(score)


def _is_missing(value: object) -> bool:
    """Whether it stands for no value: null, NaN as pandas writes it, or text without a character."""
    return value is None or value != value or (isinstance(value, str) and not value.strip())


def _box(bbox: object, bbox_format: BboxFormat) -> list[float] | None:
    if bbox is None:
        return None
    if _is_list(bbox) and len(bbox) != 4:  # before its values: there may be millions
        raise ValueError(f"bbox must be 4 numbers, has {len(bbox)}")
    if not _is_list(bbox) or not all(map(is_real, bbox)):
        raise ValueError("bbox must be 4 numbers")
    x, y, third, fourth = map(float, bbox)
    box = [x, y, third, fourth] if bbox_format == "xyxy" else [x, y, x + third, y + fourth]
    if not all(map(math.isfinite, box)):
        raise ValueError("bbox holds a number that is not finite")
    return box


def _points(points: object, name: str, *, at_least: int) -> list[list[float]] | None:
    if points is None or points == []:  # a column of lists often has no nulls
        return None
    if (
        not _is_list(points)
        or len(points) < at_least
        or not all(_is_list(point) and len(point) == 2 and all(map(is_real, point)) for point in points)
    ):
        raise ValueError(f"{name} must be [[x, y], …]" + (f", {at_least} of them or more" if at_least > 1 else ""))
    if not all(math.isfinite(number) for point in points for number in point):
        raise ValueError(f"{name} holds a number that is not finite")
    return [[float(x), float(y)] for x, y in points]


def _labels(labels: object, points: Sequence[object] | None) -> list[int] | None:
    if labels is None or (labels == [] and points is None):
        return None if points is None else [1] * len(points)
    if not _is_list(labels) or not all(whole_number(label) in (0, 1) for label in labels):
        raise ValueError("point_labels must be 1 (on the object) or 0 (off it) for each point")
    if points is None or len(points) != len(labels):
        raise ValueError(f"{len(points or ())} points come with {len(labels)} labels")
    return [int(label) for label in labels]


def _logits(mask: object) -> bytes | None:
    """mask: lists, an array, or the float32 themselves; as the predictor takes it, it may also be 1x256x256."""
    if mask is None:
        return None
    try:
        logits = np.frombuffer(mask, "<f4") if isinstance(mask, bytes) else np.asarray(mask)
        if logits.shape not in _MASK_SHAPES or logits.dtype.kind not in "iuf":
            raise ValueError(f"has the shape {logits.shape} and the type {logits.dtype}")
    except ValueError as error:  # also NumPy's, of lists that differ in length
        raise ValueError(f"mask_input must be {MASK_INPUT_SIZE}x{MASK_INPUT_SIZE} numbers") from error
    with np.errstate(over="ignore"):
        logits = logits.astype("<f4")
    if not np.isfinite(logits).all():
        raise ValueError("mask_input holds a number that is not finite")
    return logits.tobytes()


def _is_list(value: object) -> TypeGuard[list[Any]]:
    return isinstance(value, list)
