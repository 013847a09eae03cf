"""What a person has dropped on the page of `report --review`: the images and masks that exports leave out.

The page writes one JSON object to a file:

    {"format": "sam-pipeline review", "version": 1, "output": "s3://bucket/run",
     "images": [{"image_id": 3, "uri": "s3://bucket/photos/a.jpg", "keep": true, "dropped_masks": ["5f0c…"]}]}

images lists every image of the page, dropped or not. A mask has no number that stays its own: a filtered run numbers
masks anew. So it is named by mask_key, which depends on its pixels and its prompt alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sam_pipeline.errors import InputError
from sam_pipeline.results.selection.choosing import keep_masks, list_array
from sam_pipeline.safety.clean_text import is_encodable
from sam_pipeline.storage.objects.filesystem import StorageOptions, absolute_uri
from sam_pipeline.storage.objects.object_reading import read_json

FORMAT = "sam-pipeline review"
VERSION = 1

_KEY_LENGTH = 16


def mask_key(mask: Mapping[str, Any]) -> str:
    """The name of a mask in a review, 16 hexadecimal digits; equal for equal pixels of the same prompt alone.

    Args:
        mask: with segmentation and prompt_id, as in the column masks.
    """
    (height, width), counts = mask["segmentation"]["size"], mask["segmentation"]["counts"]
    text = f"{height} {width} {counts} {mask['prompt_id']}"
    return hashlib.sha256(text.encode()).hexdigest()[:_KEY_LENGTH]


@dataclass(frozen=True)
class Reviewed:
    """Rows that a review was applied to."""

    rows: pa.Table
    """What is left of them."""
    num_images: int
    """Images that the review drops and these rows had."""
    num_masks: int
    """Masks that the review drops of other images and these rows had."""


@dataclass(frozen=True)
class Review:
    """Which images and masks a person has dropped. All others are kept.

    Images are known by their URI: a filtered run may number them anew.
    """

    dropped_images: frozenset[str]
    """By URI."""
    dropped_masks: Mapping[str, frozenset[str]]
    """For each image that loses some masks and is kept itself: their keys, by URI."""

    @property
    def num_images(self) -> int:
        """Images that are dropped."""
        return len(self.dropped_images)

    @property
    def num_masks(self) -> int:
        """Masks that are dropped of other images."""
        return sum(map(len, self.dropped_masks.values()))

    def contents(self) -> tuple[object, ...]:
        """What it says as JSON takes it, equal for equal reviews."""
        return sorted(self.dropped_images), [(uri, sorted(keys)) for uri, keys in sorted(self.dropped_masks.items())]

    def apply(self, rows: pa.Table) -> Reviewed:
        """Rows of a run's results without the images and masks that were dropped.

        Args:
            rows: with the column uri, and num_masks and masks if there are any; masks with all fields.
        """
        num_masks = 0
        if "masks" in rows.column_names:
            rows, num_masks = self._without_masks(rows)
        is_dropped = self._is_one_of(rows, self.dropped_images)
        left = rows.filter(pc.invert(is_dropped))
        return Reviewed(left, rows.num_rows - left.num_rows, num_masks)

    def _is_one_of(self, rows: pa.Table, uris: Iterable[str]) -> pa.ChunkedArray:
        return pc.is_in(rows["uri"], pa.array(list(uris), rows["uri"].type))

    def _without_masks(self, rows: pa.Table) -> tuple[pa.Table, int]:
        """Rows without the masks that were dropped of images that are kept, and how many keys were met."""
        masks = list_array(rows["masks"])
        kept = np.ones(len(masks.flatten()), dtype=bool)
        offsets = np.asarray(masks.offsets)
        num_met = 0
        for number in np.flatnonzero(self._is_one_of(rows, self.dropped_masks).to_numpy()):
            dropped = self.dropped_masks[rows["uri"][number].as_py()]
            keys = [mask_key(mask) for mask in masks[number].as_py()]
            kept[offsets[number] : offsets[number + 1]] = [key not in dropped for key in keys]
            num_met += len(dropped & set(keys))
        if kept.all():
            return rows, num_met
        chosen = keep_masks(rows["masks"], kept)
        rows = rows.set_column(rows.schema.get_field_index("masks"), rows.schema.field("masks"), chosen)
        if "num_masks" in rows.column_names:
            counts = pc.list_value_length(chosen)
            rows = rows.set_column(rows.schema.get_field_index("num_masks"), rows.schema.field("num_masks"), counts)
        return rows, num_met


def read_review(place: str, storage_options: StorageOptions) -> Review:
    """Read what the page of `report --review` has written.

    Args:
        place: a local path or a URI.
        storage_options: of fsspec.

    Raises:
        ConfigError: an address that is refused.
        InputError: it cannot be read, or is no review.
        StorageUnavailableError: storage did not answer.
    """
    found = read_json(absolute_uri(place), storage_options)
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise InputError(f"{place} is no review: the page of `sam-pipeline report --review` writes one")
    if found.get("version") != VERSION:
        raise InputError(f"{place} is a review of version {found.get('version')!r}; this program reads {VERSION}")
    images = found.get("images")
    if not isinstance(images, list):
        raise InputError(f"{place} is no review: it lists no images")
    dropped_images: set[str] = set()
    dropped_masks: dict[str, frozenset[str]] = {}
    for image in images:
        uri = _checked(place, image)
        if not image["keep"]:
            dropped_images.add(uri)
        elif image["dropped_masks"]:
            dropped_masks[uri] = frozenset(image["dropped_masks"])
    return Review(frozenset(dropped_images), dropped_masks)


def _checked(place: str, image: Any) -> str:
    """The URI of an image of a review, all of whose fields are as they must be."""
    match image:
        case {"image_id": int(image_id), "uri": str(uri), "keep": bool(), "dropped_masks": list(keys)} if (
            not isinstance(image_id, bool)
            and 0 <= image_id < 2**63
            and is_encodable(uri)
            and all(isinstance(key, str) and len(key) == _KEY_LENGTH for key in keys)
        ):
            return uri
    raise InputError(
        f"{place} is no review: one of its images has a wrong or missing image_id, uri, keep or dropped_masks"
    )
