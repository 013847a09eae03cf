"""The images of a run once more, from wherever they were planned: files, archives, rows of Parquet files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from sam_pipeline.results.results import Results
from sam_pipeline.storage.inputs.decoding.image_reading import DecodeError, TooLargeError, decode_image
from sam_pipeline.storage.inputs.reading import fetch_images as fetch_sources
from sam_pipeline.storage.inputs.reading import reading_order
from sam_pipeline.storage.inputs.source_object import SourceObject, object_of_row
from sam_pipeline.storage.objects.filesystem import StorageOptions
from sam_pipeline.storage.tables.plan import read_planned

# Looked up in the plan at once. What is fetched of them is held a few at a time.
_IDS_AT_ONCE = 256


def fetch_images(results: Results, image_ids: Sequence[int]) -> Iterator[tuple[int, bytes | Exception]]:
    """Fetch images as they are stored, each container once for neighbours in it.

    Args:
        results: of the run.
        image_ids: planned ones, each once, in any order; close ones together are faster.

    Yields:
        In an order of its own, each id with the bytes of its file, or with what is wrong: FileNotFoundError,
        ChangedError if it is not the file that was annotated, and others; see storage.inputs.fetching.fetch.

    Raises:
        InputError, OutputError, StorageUnavailableError: the storage, or the plan, cannot be read.
    """
    for first in range(0, len(image_ids), _IDS_AT_ONCE):
        ids = np.sort(np.asarray(image_ids[first : first + _IDS_AT_ONCE], dtype=np.int64))
        rows = read_planned(results.output, ids, results.storage_options).to_pylist()
        planned = sorted(
            ((row["image_id"], object_of_row(row)) for row in rows), key=lambda each: reading_order(each[1])
        )
        sources = [source for _, source in planned]
        for (image_id, _), data in zip(planned, fetch_sources(sources, results.storage_options, None), strict=True):
            yield image_id, data


def read_images(results: Results, image_ids: Sequence[int]) -> Iterator[tuple[int, npt.NDArray[np.uint8] | Exception]]:
    """Fetch and decode images as they were annotated: (H, W, 3) uint8 RGB, after EXIF orientation.

    Arguments, order and errors are those of fetch_images; DecodeError and TooLargeError are answers too.
    """
    max_pixels = results.settings["max_pixels"]
    for image_id, data in fetch_images(results, image_ids):
        yield image_id, _decoded(data, max_pixels)


def read_source(
    source: SourceObject, storage_options: StorageOptions, *, max_pixels: int
) -> npt.NDArray[np.uint8] | Exception:
    """Fetch and decode one planned image, as read_images does."""
    (data,) = fetch_sources([source], storage_options, None)
    return _decoded(data, max_pixels)


def _decoded(data: bytes | Exception, max_pixels: int) -> npt.NDArray[np.uint8] | Exception:
    if isinstance(data, Exception):
        return data
    try:
        return np.asarray(decode_image(data, max_pixels=max_pixels))
    except (DecodeError, TooLargeError) as error:
        return error
