"""A look at some images before a plan is frozen, so that no run ends with nothing but errors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa

from sam_pipeline.errors import InputError
from sam_pipeline.safety.clean_text import one_line
from sam_pipeline.storage.inputs.fetching import Fetched
from sam_pipeline.storage.inputs.file_kinds import HEAD_BYTES, is_image_data
from sam_pipeline.storage.inputs.list_input import ListedInput
from sam_pipeline.storage.inputs.reading import fetch_images, reading_order
from sam_pipeline.storage.inputs.source_object import SourceObject, object_of_row
from sam_pipeline.storage.objects.filesystem import StorageOptions

NUM_LOOKED_AT = 20

_REMEDIES = {
    "manifest": "; --input-column says which column names or holds the images, --image-root where relative names start",
    "coco": "; --image-root says where the names start",
    "parquet": "; --input-column says which column holds the images",
}


def check_first_images(found: ListedInput, input_uri: str, storage_options: StorageOptions) -> None:
    """Refuse an input if none of twenty images, spread over it, can be read and begins like an image.

    It stops at the first that does, so that one image is read of most inputs.

    Raises:
        InputError: saying what is wrong with the first of them, and which setting may be.
        StorageUnavailableError: the storage did not answer for two minutes.
    """
    first, *others = spread_images(found.images)
    images = [first, *sorted(others, key=reading_order)]
    first_problem = ""
    for image, data in zip(images, _fetched(images, storage_options), strict=True):
        problem = _problem(data)
        if problem is None:
            return
        first_problem = first_problem or f"{image.uri}: {problem}"
    raise InputError(
        f"cannot use {input_uri}: none of the images looked at ({len(images)} of {found.images.num_rows}) can be read, "
        f"the first because: {first_problem}{_REMEDIES.get(found.input_format, '')}"
    )


def spread_images(images: pa.Table) -> list[SourceObject]:
    """Up to twenty images, at equal distances; images: of SOURCE_SCHEMA."""
    return [object_of_row(images.slice(row, 1).to_pylist()[0]) for row in spread_rows(images.num_rows)]


def spread_rows(num_rows: int) -> list[int]:
    """Numbers of up to twenty of so many rows, at equal distances from the first to the last."""
    num_sampled = min(num_rows, NUM_LOOKED_AT)
    return [number * (num_rows - 1) // max(1, num_sampled - 1) for number in range(num_sampled)]


def _fetched(images: Sequence[SourceObject], storage_options: StorageOptions) -> Iterator[Fetched]:
    """The first by itself, since that is most often enough; the others several in parallel."""
    for some in (images[:1], images[1:]):
        yield from fetch_images(some, storage_options, probe_uri=None)


def _problem(data: Fetched) -> str | None:
    if isinstance(data, FileNotFoundError):
        return "there is no such file"
    if isinstance(data, Exception):
        return one_line(data)
    if not data:
        return "it is empty"
    return None if is_image_data(data[:HEAD_BYTES]) else f"it is no image, but begins with {data[:16]!r}"
