"""Prompts that are only boxes, read a column at a time: the same rows as prompt_values makes, for millions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from sam_pipeline.config import BboxFormat
from sam_pipeline.storage.inputs.file_numbers import ID_LIMIT
from sam_pipeline.storage.prompts.prompt_rows import KEYED_PROMPTS

_Numbers = np.ndarray[Any, np.dtype[np.int64]]
_Flags = np.ndarray[Any, np.dtype[np.bool_]]


def box_prompts(batch: pa.RecordBatch, num_rows_before: int, bbox_format: BboxFormat) -> tuple[pa.Table, _Numbers]:
    """Take the prompts that have a valid box, no points and no mask, and nothing wrong in the other columns.

    Args:
        batch: key, text; is_image_id; and those of the other columns of prompts that there are.
        num_rows_before: of the file, for the prompt_id.
        bbox_format: of bbox.

    Returns:
        Rows of KEYED_PROMPTS, and the numbers in the batch of all other rows, in order.
    """
    names = batch.schema.names
    is_box = _has_right_length(batch.column("bbox")) if "bbox" in names else np.zeros(batch.num_rows, bool)
    for name in ("point_coords", "point_labels", "mask_input"):
        if name in names:
            is_box &= batch.column(name).is_null().to_numpy(zero_copy_only=False)
    others: dict[str, pa.Array] = {}
    for name, read in (("category_id", _ids), ("score", _scores)):
        if name in names:
            others[name], is_right = read(batch.column(name))
            is_box &= is_right
    corners = np.empty((0, 4))
    if is_box.any():
        numbers = _only(batch.column("bbox"), is_box).flatten()
        corners = _floats(numbers).reshape(-1, 4)
        if bbox_format == "xywh":
            with np.errstate(over="ignore", invalid="ignore"):
                corners = np.concatenate([corners[:, :2], corners[:, :2] + corners[:, 2:]], axis=1)
        is_finite = np.isfinite(corners).all(axis=1)
        corners = corners[is_finite]
        is_box[np.flatnonzero(is_box)[~is_finite]] = False
    count = len(corners)
    columns = {field.name: pa.nulls(count, field.type) for field in KEYED_PROMPTS}
    columns |= {
        "key": _only(batch.column("key"), is_box),
        "is_image_id": _only(batch.column("is_image_id"), is_box),
        "prompt_id": pa.array(num_rows_before + np.flatnonzero(is_box), pa.int64()),
        "box_xyxy": pa.ListArray.from_arrays(np.arange(0, 4 * count + 1, 4, dtype=np.int32), corners.reshape(-1)),
        "is_relative": pa.repeat(pa.scalar(False), count),
    }
    columns |= {name: _only(values, is_box) for name, values in others.items()}
    return pa.table(columns, schema=KEYED_PROMPTS), np.flatnonzero(~is_box)


def may_name_images(kind: pa.DataType) -> bool:
    """Whether a column of this type holds text or numbers, which may be whole."""
    if pt.is_dictionary(kind):
        kind = kind.value_type
    return bool(_is_numeric(kind) or pt.is_string(kind) or pt.is_large_string(kind) or pt.is_string_view(kind))


def key_texts(keys: pa.Array) -> pa.Array:
    """What names the images, as text; null where it is a number with a fraction.

    Raises:
        pa.ArrowInvalid: it is not UTF-8.
    """
    if pt.is_dictionary(keys.type):
        keys = keys.dictionary_decode()
    if pt.is_floating(keys.type):  # as pandas writes whole numbers with gaps
        keys, _ = _ids(keys)
    texts = keys.cast(pa.string())
    texts.validate(full=True)
    return texts


def is_list(kind: pa.DataType) -> bool:
    """Whether values are lists, of any of the layouts of Parquet files."""
    return bool(pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind))


def _has_right_length(boxes: pa.Array) -> _Flags:
    if not is_list(boxes.type) or not _is_numeric(boxes.type.value_type):
        return np.zeros(len(boxes), bool)
    is_right = pc.and_(boxes.is_valid(), pc.fill_null(pc.equal(pc.list_value_length(boxes), 4), False))
    found: _Flags = is_right.to_numpy(zero_copy_only=False).copy()
    return found


def _only(values: pa.Array, is_meant: _Flags) -> pa.Array:
    return values if is_meant.all() else values.filter(pa.array(is_meant))


def _is_numeric(kind: pa.DataType) -> bool:
    return bool(pt.is_integer(kind) or pt.is_floating(kind))


def _floats(numbers: pa.Array) -> np.ndarray[Any, np.dtype[np.float64]]:
    """With NaN where there are nulls."""
    # Not safe: integers beyond 2**53 are rounded, as Python's float rounds them.
    found: np.ndarray[Any, np.dtype[np.float64]] = numbers.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return found


def _ids(values: pa.Array) -> tuple[pa.Array, _Flags]:
    """Whole numbers, and which rows hold one or nothing."""
    is_missing = values.is_null().to_numpy(zero_copy_only=False)
    if pt.is_uint64(values.type):
        is_id = pc.fill_null(pc.less(values, pa.scalar(ID_LIMIT, pa.uint64())), False)
        numbers = pc.if_else(is_id, values, pa.scalar(None, pa.uint64())).cast(pa.int64())
        return numbers, is_missing | is_id.to_numpy(zero_copy_only=False)
    if pt.is_integer(values.type):
        return values.cast(pa.int64()), np.ones(len(values), bool)
    if pt.is_floating(values.type):
        # As pandas writes whole numbers with gaps.
        numbers = _floats(values)
        is_id = (np.trunc(numbers) == numbers) & (numbers >= -ID_LIMIT) & (numbers < ID_LIMIT)
        return pa.array(np.where(is_id, numbers, 0).astype(np.int64), mask=~is_id), is_id | np.isnan(numbers)
    return pa.nulls(len(values), pa.int64()), is_missing


def _scores(values: pa.Array) -> tuple[pa.Array, _Flags]:
    """Finite numbers, and which rows hold one or nothing."""
    if not _is_numeric(values.type):
        return pa.nulls(len(values), pa.float64()), values.is_null().to_numpy(zero_copy_only=False)
    scores = _floats(values)
    is_missing = np.isnan(scores)
    return pa.array(scores, mask=is_missing), is_missing | np.isfinite(scores)
