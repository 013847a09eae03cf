"""Images and their chosen masks, as a format gets them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sam_pipeline.exports.names import Names
from sam_pipeline.results.categories import Categories
from sam_pipeline.results.selection.choosing import list_array, row_numbers

COLUMNS = ("image_id", "uri", "height", "width", "extra", "masks")
"""Columns of the results of which a batch is made."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Some images, all of them annotated, and their chosen masks, one image after another.

    B images, N masks of all of them.
    """

    images: pa.Table
    """image_id (from 0), uri, height, width and extra; B rows."""
    file_names: list[str]
    """A relative path for each image, safe to join; all differ."""
    stems: list[str]
    """The same without suffixes; all differ too. For formats that ask for it."""
    masks: pa.StructArray
    """As they are stored (storage.tables.schema.MASK_TYPE), (N,)."""
    row: npt.NDArray[np.int64]
    """Which image a mask is of, (N,), ascending from 0."""
    category_ids: npt.NDArray[np.int64]
    """Export ids, (N,), at least 1."""
    first_annotation_id: int
    """The id of the first mask; the others follow. From 1 over the whole export."""

    @property
    def num_images(self) -> int:
        """B."""
        return int(self.images.num_rows)

    @property
    def num_masks(self) -> int:
        """N."""
        return len(self.row)

    @property
    def image_ids(self) -> npt.NDArray[np.int64]:
        """Ids of the images in the export, (B,), from 1: to COCO's readers an id of 0 is none."""
        ids: npt.NDArray[np.int64] = self.images["image_id"].to_numpy() + 1
        return ids

    @property
    def annotation_ids(self) -> npt.NDArray[np.int64]:
        """Ids of the masks in the export, (N,)."""
        return self.first_annotation_id + np.arange(self.num_masks)

    @property
    def sizes_hw(self) -> list[tuple[int, int]]:
        """Height and width of each image, upright, as it was annotated, (B,)."""
        return list(zip(self.images["height"].to_pylist(), self.images["width"].to_pylist(), strict=True))

    def counts(self) -> npt.NDArray[np.int64]:
        """How many masks each image has, (B,)."""
        return np.bincount(self.row, minlength=self.num_images)

    def slices(self, num_images: int) -> Iterator[Batch]:
        """The same in batches of so many images, for what takes much memory for each."""
        for first in range(0, self.num_images, num_images):
            yield self.between(first, min(first + num_images, self.num_images))

    def between(self, first: int, end: int) -> Batch:
        """The same for some of its images: numbers first to end - 1."""
        low, high = np.searchsorted(self.row, [first, end]).tolist()
        return Batch(
            self.images.slice(first, end - first),
            self.file_names[first:end],
            self.stems[first:end],
            self.masks.slice(low, high - low),
            self.row[low:high] - first,
            self.category_ids[low:high],
            self.first_annotation_id + low,
        )

    def dicts(self) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
        """Each image and its masks as Python objects, which is slow: some 20 µs a mask."""
        ends = self.counts().cumsum()
        masks = self.masks.to_pylist()
        first = 0
        for image, end in zip(self.images.to_pylist(), ends.tolist(), strict=True):
            yield image, masks[first:end]
            first = end


def make_batch(rows: pa.Table, names: Names, categories: Categories, first_annotation_id: int) -> Batch:
    """A batch of rows of the results with COLUMNS.

    Raises:
        ConfigError: a category has no name.
    """
    lists = list_array(rows["masks"])
    masks = lists.flatten()
    file_names = names.file_names(rows["uri"].to_pylist())
    return Batch(
        rows.drop_columns("masks"),
        file_names,
        [names.stem(*each) for each in zip(rows["image_id"].to_pylist(), file_names, strict=True)],
        masks,
        row_numbers(lists),
        categories.export_ids(masks.field("category_id")),
        first_annotation_id,
    )
