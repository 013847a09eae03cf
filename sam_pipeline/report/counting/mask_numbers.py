"""The numbers of a run's masks, a row group at a time, without their pixels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sam_pipeline.results.results import Results
from sam_pipeline.results.selection.choosing import list_array, prompt_box_iou, row_numbers

_COLUMNS = ["image_id", "uri", "height", "width", "status", "error", "num_masks", "prompt_errors", "masks"]
_FIELDS = ["area", "predicted_iou", "stability_score"]
_PROMPT_FIELDS = ["bbox", "prompt_box", "category_id", "score"]


@dataclass(frozen=True)
class MaskNumbers:
    """R images, and their N masks one after another."""

    rows: pa.Table
    """Columns of the results, masks among them with the fields that are numbers."""
    has_prompts: bool
    """Whether masks have the fields of prompts."""

    @cached_property
    def image_id(self) -> NDArray[np.int64]:
        """(R,)."""
        return np.asarray(self.rows["image_id"])

    @cached_property
    def is_ok(self) -> NDArray[np.bool_]:
        """Which images were annotated, (R,)."""
        return np.asarray(pc.equal(self.rows["status"], "ok"))

    @cached_property
    def num_pixels(self) -> NDArray[np.float64]:
        """One value an image, (R,); NaN where its size is not known."""
        return _floats(self.rows["height"]) * _floats(self.rows["width"])

    @cached_property
    def num_masks(self) -> NDArray[np.int64]:
        """One value an image, (R,)."""
        counts: NDArray[np.int64] = np.bincount(self.row, minlength=self.rows.num_rows)
        return counts

    @cached_property
    def row(self) -> NDArray[np.int64]:
        """The row of each mask, (N,), ascending."""
        return row_numbers(self._lists)

    def of_masks(self, name: str) -> NDArray[np.float64]:
        """A field of each mask that is a number, (N,); NaN where there is none."""
        return _floats(self._masks.field(name))

    @property
    def category_id(self) -> pa.Array:
        """One value a mask, (N,) int64; null where there is none."""
        return self._masks.field("category_id")

    @cached_property
    def box_iou(self) -> NDArray[np.float64]:
        """IoU of each mask's box with that of its prompt, (N,); NaN where there is none."""
        return prompt_box_iou(self.rows)

    def sum_by_image(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sums over the masks of each image, (R,); values of masks, (N,)."""
        return np.bincount(self.row, weights=values, minlength=self.rows.num_rows).astype(np.float64)

    def most_by_image(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        """The largest value among the masks of each image that has any, (images with masks,)."""
        starts = np.flatnonzero(np.diff(self.row, prepend=-1))
        return np.maximum.reduceat(values, starts) if len(starts) else values[:0]

    @cached_property
    def _lists(self) -> pa.ListArray:
        return list_array(self.rows["masks"])

    @cached_property
    def _masks(self) -> pa.StructArray:
        return self._lists.flatten()


def read_mask_numbers(results: Results) -> Iterator[MaskNumbers]:
    """Read the numbers of all images and masks that are chosen, in bounded memory.

    Raises:
        OutputError: a file is missing or damaged.
        StorageUnavailableError: storage did not answer.
    """
    has_prompts = results.settings.get("mode") != "grid"
    fields = [*_FIELDS, *(_PROMPT_FIELDS if has_prompts else [])]
    for rows in results.tables(_COLUMNS, mask_fields=fields):
        yield MaskNumbers(rows, has_prompts)


def _floats(column: pa.Array | pa.ChunkedArray) -> NDArray[np.float64]:
    values = column.cast(pa.float64())
    return np.asarray(
        values.to_numpy() if isinstance(values, pa.ChunkedArray) else values.to_numpy(zero_copy_only=False)
    )
