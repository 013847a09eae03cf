"""The stages between the plan and the commit. Each takes and gives Arrow tables and delegates the work.

An image that cannot be read passes through every stage with its status, without crops, and ends as a row.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sam_pipeline.masks.crops import prepare_crops
from sam_pipeline.pipeline.columns import (
    EMBEDDINGS,
    IMAGES,
    crop_column,
    crops_by_image,
    result_table,
    shard_row,
)
from sam_pipeline.pipeline.job import Job
from sam_pipeline.storage.fetching import Fetched, fetch
from sam_pipeline.storage.filesystem import one_line
from sam_pipeline.storage.image_reading import DecodeError, TooLargeError, decode_image
from sam_pipeline.storage.mask_table import put_shard
from sam_pipeline.storage.plan_table import read_planned

# Objects fetched at once by a task: enough to hide latency, few enough that their bytes fit beside everything else.
_FETCH_AT_ONCE = 8


def read_images(chunks: pa.Table, job: Job) -> Iterator[pa.Table]:
    """Fetch, decode, orient and resize the pending images of each chunk; yields one row at a time.

    One row a table, because Ray cuts blocks between tables: the encoder can then form batches of exactly the size it
    wants, and no image waits for others.
    """
    for chunk in chunks.to_pylist():
        planned = read_planned(job.output, chunk["start"], chunk["stop"], job.storage_options)
        pending = pa.array(np.frombuffer(chunk["pending"], np.int64))
        rows = planned.filter(pc.is_in(planned["image_id"], pending)).to_pylist()
        for first in range(0, len(rows), _FETCH_AT_ONCE):
            batch = rows[first : first + _FETCH_AT_ONCE]
            fetched = fetch([row["uri"] for row in batch], job.storage_options)
            for row, data in zip(batch, fetched, strict=True):
                yield _image_row(row, data, job)


def _image_row(planned: dict[str, Any], data: Fetched, job: Job) -> pa.Table:
    pixels: npt.NDArray[np.uint8] | None = None
    status, error = "ok", None
    if isinstance(data, Exception):
        status, error = "fetch_error", f"{type(data).__name__}: {one_line(data)}"
    elif planned["size_bytes"] not in (None, len(data)):
        status, error = "changed", f"planned with {planned['size_bytes']} bytes, now {len(data)}"
    else:
        try:
            pixels = decode_image(data, max_pixels=job.config.max_pixels)
        except DecodeError as failure:
            status, error = "decode_error", one_line(failure)
        except TooLargeError as failure:
            status, error = "too_large", one_line(failure)
    height, width = (None, None) if pixels is None else pixels.shape[:2]
    crops = [] if pixels is None else prepare_crops(pixels, job.config.masks)
    columns = [[planned["image_id"]], [planned["uri"]], [height], [width], [status], [error], crop_column([crops])]
    return pa.Table.from_arrays(
        [pa.array(column, field.type) for column, field in zip(columns, IMAGES, strict=True)], schema=IMAGES
    )


class Encoder:
    """Actor: crops → image embeddings, (256, 64, 64) each, in the bytes of the run's precision."""

    def __init__(self, job: Job, batch_size: int) -> None:
        from sam_pipeline.pipeline.engine import Engine  # torch: not for the tasks that read and write

        self._engine = Engine(job)
        self._batch_size = batch_size

    def __call__(self, images: pa.Table) -> pa.Table:
        """Replace the column crops by image_embeddings."""
        by_image = crops_by_image(images)
        encoded = self._engine.encode([crop for crops in by_image for crop in crops], self._batch_size)
        embeddings = pa.array([[next(encoded) for _ in crops] for crops in by_image], EMBEDDINGS)
        return images.drop_columns(["crops"]).append_column("image_embeddings", embeddings)


class Decoder:
    """Actor: image embeddings → masks in the official order, and word of each image to the progress display."""

    def __init__(self, job: Job, progress: Any) -> None:
        from sam_pipeline.pipeline.engine import Engine

        self._engine = Engine(job)
        self._progress = progress

    def __call__(self, embeddings: pa.Table) -> pa.Table:
        """Replace the column image_embeddings by num_masks and masks."""
        sizes = zip(embeddings["height"].to_pylist(), embeddings["width"].to_pylist(), strict=True)
        encoded = ([memoryview(crop.as_buffer()) for crop in crops] for crops in embeddings["image_embeddings"])
        masks_by_image = self._engine.decode(zip(encoded, sizes, strict=True))
        for status, masks in zip(embeddings["status"].to_pylist(), masks_by_image, strict=True):
            self._progress.add.remote(status, len(masks))
        return result_table(embeddings, [[mask.to_dict() for mask in masks] for masks in masks_by_image])


def write_shard(results: pa.Table, job: Job) -> pa.Table:
    """Put one shard; the driver commits it."""
    return shard_row(put_shard(job.output, results, job.storage_options))
