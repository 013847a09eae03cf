"""What a person has ticked in the page of `report --review`: the images and masks that exports leave out.

The page writes one JSON object to a file:

    {"format": "sam-pipeline review", "version": 1, "output": "s3://bucket/run",
     "images": [{"image_id": 3, "uri": "s3://bucket/photos/a.jpg", "keep": true, "dropped_masks": ["5f0c…"]}]}

images lists every image of the page, dropped or not. A mask has no number that stays its own: a filtered run numbers
masks anew. So it is named by mask_key, which depends on its pixels and its prompt alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sam_pipeline.errors import ConfigError, InputError
from sam_pipeline.results.selection.choosing import keep_masks, list_array
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
class Review:
    """Which of the images and masks that a person has looked at are left out. All others are kept."""

    place: str
    """The file, for messages."""
    uris: Mapping[int, str]
    """Of the images that were looked at, by image_id."""
    dropped_images: frozenset[int]
    """By image_id."""
    dropped_masks: Mapping[int, frozenset[str]]
    """For each image that loses some masks and is kept itself: their keys."""

    def contents(self) -> tuple[object, ...]:
        """What it says as JSON takes it, equal for equal reviews."""
        masks = [(image_id, sorted(keys)) for image_id, keys in sorted(self.dropped_masks.items())]
        return sorted(self.uris.items()), sorted(self.dropped_images), masks

    def apply(self, rows: pa.Table) -> pa.Table:
        """Rows of a run's results without the images and masks that were dropped.

        Args:
            rows: with the columns image_id and uri, and num_masks and masks if there are any; masks with all fields.

        Raises:
            ConfigError: an image that was looked at has another URI here: the review is of another run.
        """
        ids = rows["image_id"]
        seen = np.flatnonzero(pc.is_in(ids, pa.array(list(self.uris), pa.int64())).to_numpy())
        if not len(seen):
            return rows
        for image_id, uri in zip(ids.take(seen).to_pylist(), rows["uri"].take(seen).to_pylist(), strict=True):
            if self.uris[image_id] != uri:
                raise ConfigError(
                    f"{self.place} is a review of another run: there image {image_id} is {self.uris[image_id]!r}, "
                    f"here it is {uri!r}"
                )
        if "masks" in rows.column_names:
            rows = self._without_masks(rows, seen)
        is_dropped = pc.is_in(ids, pa.array(list(self.dropped_images), pa.int64()))
        return rows.filter(pc.invert(is_dropped))

    def _without_masks(self, rows: pa.Table, seen: np.ndarray[Any, np.dtype[np.int64]]) -> pa.Table:
        masks = list_array(rows["masks"])
        kept = np.ones(len(masks.flatten()), dtype=bool)
        offsets = np.asarray(masks.offsets)
        for number in seen:
            if keys := self.dropped_masks.get(rows["image_id"][number].as_py()):
                kept[offsets[number] : offsets[number + 1]] = [
                    mask_key(mask) not in keys for mask in masks[number].as_py()
                ]
        if kept.all():
            return rows
        chosen = keep_masks(rows["masks"], kept)
        rows = rows.set_column(rows.schema.get_field_index("masks"), rows.schema.field("masks"), chosen)
        if "num_masks" in rows.column_names:
            counts = pc.list_value_length(chosen)
            rows = rows.set_column(rows.schema.get_field_index("num_masks"), rows.schema.field("num_masks"), counts)
        return rows


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
    uris: dict[int, str] = {}
    dropped_images: set[int] = set()
    dropped_masks: dict[int, frozenset[str]] = {}
    for image in images:
        image_id = _checked(place, image)
        uris[image_id] = image["uri"]
        if not image["keep"]:
            dropped_images.add(image_id)
        elif image["dropped_masks"]:
            dropped_masks[image_id] = frozenset(image["dropped_masks"])
    return Review(place, uris, frozenset(dropped_images), dropped_masks)


def _checked(place: str, image: Any) -> int:
    """The id of an image of a review, all of whose fields are as they must be."""
    match image:
        case {"image_id": int(image_id), "uri": str(), "keep": bool(), "dropped_masks": list(keys)} if (
            not isinstance(image_id, bool)
            and 0 <= image_id < 2**63
            and all(isinstance(key, str) and len(key) == _KEY_LENGTH for key in keys)
        ):
            return image_id
    raise InputError(
        f"{place} is no review: an image of it has not image_id, uri, keep and dropped_masks as they must be"
    )
