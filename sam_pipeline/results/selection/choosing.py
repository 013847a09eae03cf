"""Choosing masks from rows of a run's results, as Arrow tables: no mask becomes a Python object."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sam_pipeline.results.selection.containment import contained
from sam_pipeline.results.selection.mask_selection import MaskSelection
from sam_pipeline.storage.inputs.selection import match_pattern
from sam_pipeline.storage.tables.schema import MASK_TYPE

# What the choice of masks looks at, by setting: fields of masks and columns of their images.
_MASK_FIELDS = {
    "pred_iou_thresh": ("predicted_iou",),
    "stability_score_thresh": ("stability_score",),
    "box_nms_thresh": ("bbox", "predicted_iou"),
    "min_score": ("score",),
    "min_area": ("area",),
    "max_area_share": ("area",),
    "max_masks": ("predicted_iou",),
    "min_box_iou": ("bbox", "prompt_box"),
    "category_ids": ("category_id",),
    "source": ("prompt_id",),
    "drop_contained": ("segmentation",),
    "drop_border": ("bbox",),
}


def fields_looked_at(selection: MaskSelection) -> list[str]:
    """The fields of masks that a choice depends on, and the area, by which they can be counted."""
    return sorted({"area", *(field for name in selection.effective() for field in _MASK_FIELDS.get(name, ()))})


def choose_masks(
    rows: pa.Table,
    selection: MaskSelection,
    *,
    wanted: NDArray[np.bool_] | None = None,
    dropped: Counter[str] | None = None,
) -> NDArray[np.bool_]:
    """Which masks of some images are wanted.

    Args:
        rows: of the results, with the columns height, width and masks, of which fields_looked_at is enough. A field
            that the table is too old to have counts as null.
        selection: what is wanted. include and exclude choose images, and are not looked at here.
        wanted: (rows,), images whose masks are wanted at all; None takes all.
        dropped: counts masks of wanted images that are dropped, each under the first setting that drops it.

    Returns:
        (N,) for the masks of all rows, one row after another.
    """
    masks = _Masks.of(rows)
    kept = np.ones(len(masks.row), dtype=bool) if wanted is None else wanted[masks.row]
    for name, apply in _filters(selection):
        left = apply(masks, kept)
        if dropped is not None:
            dropped[name] += int(np.count_nonzero(kept)) - int(np.count_nonzero(left))
        kept = left
    return kept


def keep_masks(lists: pa.ChunkedArray | pa.ListArray, kept: NDArray[np.bool_]) -> pa.ListArray:
    """The masks of some images without those that are not kept.

    Args:
        lists: the column masks.
        kept: (N,) as choose_masks returns it.
    """
    masks = list_array(lists)
    counts = count_kept(masks, kept)
    values = masks.flatten()
    return pa.ListArray.from_arrays(
        pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int32()),
        values if kept.all() else values.filter(pa.array(kept)),
    ).cast(lists.type)


def with_fields(kind: pa.DataType, *parts: pa.ListArray) -> pa.ListArray:
    """The same masks in another type.

    Args:
        kind: a list of structs. Fields that no part has are null.
        parts: the same masks, each with some of their fields, as list_array gives them; the first that has a field
            counts.
    """
    columns = {each.name: part.flatten().field(each.name) for part in reversed(parts) for each in part.type.value_type}
    fields = list(kind.value_type)
    num_masks = len(parts[0].flatten())
    values = [columns.get(each.name, pa.nulls(num_masks, each.type)) for each in fields]
    return pa.ListArray.from_arrays(parts[0].offsets, pa.StructArray.from_arrays(values, fields=fields)).cast(kind)


def count_kept(masks: pa.ListArray, kept: NDArray[np.bool_]) -> NDArray[np.int64]:
    """How many masks of each image are kept, (rows,)."""
    return np.bincount(row_numbers(masks)[kept], minlength=len(masks))


def prompt_box_iou(rows: pa.Table) -> NDArray[np.float64]:
    """IoU of each mask's box with the box that it was prompted with, (N,); NaN where there is none.

    Args:
        rows: of the results, with masks, of which bbox and prompt_box are enough.
    """
    return _box_iou(_Masks.of(rows))


def list_array(lists: pa.ChunkedArray | pa.ListArray) -> pa.ListArray:
    """A column of lists in one piece, which begins with its first value."""
    if isinstance(lists, pa.ListArray):
        return lists
    joined = lists.combine_chunks()
    return pa.concat_arrays(joined.chunks) if isinstance(joined, pa.ChunkedArray) else joined


def row_numbers(lists: pa.ListArray) -> NDArray[np.int64]:
    """For each value of lists the number of its row, ascending."""
    return np.repeat(np.arange(len(lists)), np.diff(np.asarray(lists.offsets)))


@dataclass(frozen=True)
class _Masks:
    """The masks of some images, one after another."""

    images: pa.Table
    values: pa.StructArray
    """All masks, (N,)."""
    row: NDArray[np.int64]
    """Which row of images each mask is of, (N,), ascending."""

    @classmethod
    def of(cls, rows: pa.Table) -> _Masks:
        lists = list_array(rows["masks"])
        return cls(rows, lists.flatten(), row_numbers(lists))

    def field(self, name: str) -> pa.Array:
        """A field, (N,); nulls where the table is too old to have it."""
        if self.values.type.get_field_index(name) < 0:
            return pa.nulls(len(self.values), MASK_TYPE.field(name).type)
        return self.values.field(name)

    def number(self, name: str, kind: type) -> NDArray[Any]:
        """A field that is a number, (N,); NaN where there is none."""
        column = self.field(name)
        return np.asarray(column.cast(pa.float64()) if column.null_count else column).astype(kind, copy=False)

    def quadruple(self, name: str) -> NDArray[np.float64]:
        """A field that is a list of four numbers, (N, 4); NaN where there is none."""
        column = self.field(name)
        found = np.full((len(column), 4), np.nan)
        found[np.asarray(column.is_valid())] = np.asarray(column.flatten()).reshape(-1, 4)
        return found

    def of_image(self, name: str) -> NDArray[np.float64]:
        """A column of each mask's image, (N,)."""
        return np.asarray(self.images[name].cast(pa.float64()))[self.row]

    def boxes_xyxy(self) -> NDArray[np.float64]:
        """First and last pixels of each mask, (N, 4)."""
        x, y, w, h = self.quadruple("bbox").T
        return np.stack([x, y, x + w, y + h], axis=1)

    def by_image(self, kept: NDArray[np.bool_]) -> list[NDArray[np.int64]]:
        """The kept masks of each image that has any, as numbers of masks."""
        numbers = np.flatnonzero(kept)
        starts = np.flatnonzero(np.diff(self.row[numbers])) + 1
        return np.split(numbers, starts) if len(numbers) else []


_Filter = Callable[[_Masks, NDArray[np.bool_]], NDArray[np.bool_]]
"""(masks, those that were kept so far) → those that it keeps of them."""


def _filters(wanted: MaskSelection) -> list[tuple[str, _Filter]]:
    """What drops masks, by setting, in the order in which it is applied: first what is decided mask by mask.

    Scores are compared as the generator does: in float32, and a threshold of 0 drops nothing.
    """
    filters: list[tuple[str, _Filter]] = []
    if pred_iou_thresh := wanted.pred_iou_thresh:
        above = np.float32(pred_iou_thresh)
        filters.append(("pred_iou_thresh", lambda m, kept: kept & (m.number("predicted_iou", np.float32) > above)))
    if stability := wanted.stability_score_thresh:
        least = np.float32(stability)
        filters.append(
            ("stability_score_thresh", lambda m, kept: kept & (m.number("stability_score", np.float32) >= least))
        )
    if (min_score := wanted.min_score) is not None:
        filters.append(("min_score", lambda m, kept: kept & (m.number("score", np.float64) >= min_score)))
    if (min_area := wanted.min_area) is not None:
        filters.append(("min_area", lambda m, kept: kept & (m.number("area", np.float64) >= min_area)))
    if (share := wanted.max_area_share) is not None:
        filters.append(("max_area_share", lambda m, kept: kept & (m.number("area", np.float64) <= _pixels(m) * share)))
    if (min_box_iou := wanted.min_box_iou) is not None:
        filters.append(("min_box_iou", lambda m, kept: kept & ~(_box_iou(m) < min_box_iou)))
    if wanted.category_ids:
        ids = pa.array(wanted.category_ids, pa.int64())
        filters.append(
            ("category_ids", lambda m, kept: kept & np.asarray(pc.is_in(m.field("category_id"), value_set=ids)))
        )
    if wanted.source != "all":
        is_prompted = wanted.source == "prompts"
        filters.append(("source", lambda m, kept: kept & (np.asarray(m.field("prompt_id").is_valid()) == is_prompted)))
    if wanted.drop_border:
        filters.append(("drop_border", lambda m, kept: kept & _is_inside(m)))
    if (threshold := wanted.box_nms_thresh) is not None:
        filters.append(("box_nms_thresh", lambda m, kept: _without_duplicates(m, kept, threshold)))
    if (drop := wanted.drop_contained) != "none":
        filters.append(("drop_contained", lambda m, kept: _not_contained(m, kept, drop)))
    if (most := wanted.max_masks) is not None:
        filters.append(("max_masks", lambda m, kept: _best(m, kept, most)))
    return filters


def _without_duplicates(masks: _Masks, kept: NDArray[np.bool_], threshold: float) -> NDArray[np.bool_]:
    from sam_pipeline.masks.nms import nms  # numba, which other choices do without

    boxes_xyxy, scores = masks.boxes_xyxy(), masks.number("predicted_iou", np.float32)
    left = np.zeros_like(kept)
    for members in masks.by_image(kept):
        left[members[nms(boxes_xyxy[members], scores[members], threshold)]] = True
    return left


def _not_contained(masks: _Masks, kept: NDArray[np.bool_], drop: str) -> NDArray[np.bool_]:
    segmentations = masks.field("segmentation")
    left = np.zeros_like(kept)
    for members in masks.by_image(kept):
        lies_in = contained(segmentations.take(pa.array(members)).to_pylist())
        left[members[~lies_in.any(axis=1 if drop == "outer" else 0)]] = True
    return left


def _best(masks: _Masks, kept: NDArray[np.bool_], most: int) -> NDArray[np.bool_]:
    numbers = np.flatnonzero(kept)
    # Of equal ones the first.
    order = numbers[np.lexsort((-masks.number("predicted_iou", np.float32)[numbers], masks.row[numbers]))]
    row = masks.row[order]
    place_in_image = np.arange(len(order)) - np.searchsorted(row, row)
    left = np.zeros_like(kept)
    left[order[place_in_image < most]] = True
    return left


def _pixels(masks: _Masks) -> NDArray[np.float64]:
    """Of each mask's image, (N,)."""
    return masks.of_image("height") * masks.of_image("width")


def _box_iou(masks: _Masks) -> NDArray[np.float64]:
    """IoU of each mask's box with that of its prompt, (N,); NaN where there is none. Boxes cover whole pixels."""
    x0, y0, x1, y1 = masks.boxes_xyxy().T
    x1, y1 = x1 + 1, y1 + 1
    x, y, w, h = masks.quadruple("prompt_box").T
    width = np.clip(np.minimum(x1, x + w) - np.maximum(x0, x), 0, None)
    height = np.clip(np.minimum(y1, y + h) - np.maximum(y0, y), 0, None)
    intersection = width * height
    iou: NDArray[np.float64] = intersection / ((x1 - x0) * (y1 - y0) + w * h - intersection)
    return iou


def _is_inside(masks: _Masks) -> NDArray[np.bool_]:
    x0, y0, x1, y1 = masks.boxes_xyxy().T
    is_inside: NDArray[np.bool_] = (
        (x0 > 0) & (y0 > 0) & (x1 < masks.of_image("width") - 1) & (y1 < masks.of_image("height") - 1)
    )
    return is_inside


def choose_images(uris: pa.ChunkedArray, selection: MaskSelection) -> NDArray[np.bool_]:
    """Which images are wanted by include and exclude, (rows,). The # behind a container is as good as a slash.

    Raises:
        InputError: a pattern that cannot be understood.
    """
    kept = np.ones(len(uris), dtype=bool)
    if selection.include:
        kept &= _matches(uris, selection.include)
    if selection.exclude:
        kept &= ~_matches(uris, selection.exclude)
    return kept


def _matches(uris: pa.ChunkedArray, patterns: Sequence[str]) -> NDArray[np.bool_]:
    paths = pc.replace_substring(uris, "#", "/")
    found = np.zeros(len(uris), dtype=bool)
    for pattern in patterns:
        found |= match_pattern(uris, pattern).to_numpy() | match_pattern(paths, pattern.replace("#", "/")).to_numpy()
    return found
