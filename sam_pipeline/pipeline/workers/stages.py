"""The stages between the plan and the commit. Each takes and gives Arrow tables and delegates the work.

An image that cannot be read goes through every stage with its status, without crops, and ends as a row.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import fsspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image

from sam_pipeline.masks.prompts import ImagePrompts, UnusablePrompt, resolve_prompts
from sam_pipeline.masks.records import MaskRecord
from sam_pipeline.pipeline.job import EncodedImage, Engine, Job
from sam_pipeline.pipeline.metrics import count_batches, count_images, count_written, counted, counted_retries
from sam_pipeline.pipeline.monitor import BlockStart, report_batch_errors, report_errors, report_time
from sam_pipeline.pipeline.workers.blocks import as_block, images_of
from sam_pipeline.pipeline.workers.columns import (
    PreparedImage,
    crops_by_image,
    embedding_column,
    embeddings_by_image,
    images_table,
    num_crops,
    pack_prompts,
    result_table,
    shard_row,
    unpack_prompts,
)
from sam_pipeline.pipeline.workers.limits import each_in_time, limit_memory, limit_memory_after, time_limit
from sam_pipeline.safety.clean_text import one_line
from sam_pipeline.storage.inputs.decoding.image_reading import DecodeError, TooLargeError, decode_image
from sam_pipeline.storage.inputs.disks import check_seen
from sam_pipeline.storage.inputs.fetching import (
    FETCH_LIMIT_S,
    ChangedError,
    Fetched,
    RefusedError,
    TooLargeToFetchError,
)
from sam_pipeline.storage.inputs.reading import fetch_images, reading_order
from sam_pipeline.storage.inputs.source_object import SourceObject, object_of_row
from sam_pipeline.storage.tables.plan import read_planned
from sam_pipeline.storage.tables.reading.prompt_reading import read_image_prompts
from sam_pipeline.storage.tables.results import put_shard

_LEAST_FETCH_LIMIT_S = 30.0


@dataclass(frozen=True)
class PlannedImage:
    """An image of the plan: a row of IMAGES_SCHEMA, with its prompts."""

    image_id: int
    source: SourceObject
    prompts: Sequence[dict[str, Any]]
    """Rows of PROMPT_TYPE."""


def read_images(chunks: pa.Table, job: Job, block_images: int, monitor: Any) -> Iterator[pa.Table]:
    """Fetch, decode, orient and resize the pending images of each chunk; yields blocks of block_images of them."""
    limit_memory(job.worker_memory_bytes)
    with report_errors(monitor), counted_retries(job.run_id):
        for chunk in chunks.to_pylist():
            start = BlockStart()
            planned = planned_images(np.frombuffer(chunk["image_ids"], np.int64), job)
            planned.sort(key=lambda image: reading_order(image.source))
            fetched = zip(planned, counted(fetch_planned(planned, job), job.run_id), strict=True)
            prepared = (prepare_image(image, data, job) for image, data in fetched)
            while images := list(islice(prepared, block_images)):
                block, num_images = as_block(images_table(images)), len(images)
                del images  # they are in the block
                report_time(monitor, job.run_id, "read", num_images, start)
                yield block
                start = BlockStart()  # what reads blocks may be slower


def planned_images(image_ids: npt.NDArray[np.int64], job: Job) -> list[PlannedImage]:
    """What is planned for images, (N,) ascending."""
    rows = read_planned(job.output, image_ids, job.storage_options).to_pylist()
    prompts = read_image_prompts(job.output, image_ids, job.storage_options) if job.has_prompts else {}
    return [PlannedImage(row["image_id"], object_of_row(row), prompts.get(row["image_id"], [])) for row in rows]


def fetch_planned(images: Sequence[PlannedImage], job: Job) -> Iterator[Fetched]:
    """Fetch the bytes of planned images, a few at a time.

    Raises:
        InputError: this machine does not see the disk of the images.
    """
    sources = [image.source for image in images]
    for fetched in fetch_images(sources, job.storage_options, job.probe_uri, limit_s=fetch_limit_s(job)):
        if isinstance(fetched, FileNotFoundError) and job.images_folder is not None:
            check_seen(job.images_folder)
        yield fetched


def fetch_limit_s(job: Job) -> float:
    """Seconds that fetching an object may take: enough to ask a storage that stalls once more."""
    return min(FETCH_LIMIT_S, max(_LEAST_FETCH_LIMIT_S, job.image_timeout_s))


def prepare_image(planned: PlannedImage, data: Fetched, job: Job) -> PreparedImage:
    """A planned image and what was fetched for it → its crops, or a status and an error."""
    with time_limit(job.image_timeout_s):
        image, status, error = _decoded(data, job.config.max_pixels)
        asks_for_nothing = job.mode == "prompted" and not planned.prompts
        return PreparedImage(
            image_id=planned.image_id,
            uri=planned.source.uri,
            height=None if image is None else image.height,
            width=None if image is None else image.width,
            status=status,
            error=error,
            extra=planned.source.extra,
            prompts=pack_prompts(planned.prompts),
            crops=[] if image is None or asks_for_nothing else job.backend.prepare(image, job.generator_settings),
        )


def _decoded(data: Fetched, max_pixels: int) -> tuple[Image.Image | None, str, str | None]:
    """The image with its status, or None with a status and an error.

    Raises:
        MemoryError: this worker ran out of memory; alone, the image may still be read.
    """
    match data:
        case MemoryError():
            raise data
        case ChangedError():
            return None, "changed", one_line(data)
        case TooLargeToFetchError():
            return None, "too_large", one_line(data)
        case RefusedError():
            return None, "fetch_error", one_line(data)
        case Exception():
            return None, "fetch_error", f"{type(data).__name__}: {one_line(data)}"
    try:
        return decode_image(data, max_pixels=max_pixels), "ok", None
    except DecodeError as failure:
        return None, "decode_error", one_line(failure)
    except TooLargeError as failure:
        if isinstance(failure.__cause__, MemoryError):
            raise failure.__cause__ from None
        return None, "too_large", one_line(failure)


def encode_images(images: pa.Table, engine: Engine, batch_size: int, job: Job) -> pa.Table:
    """Replace the column crops by image_embeddings, (256, 64, 64) each, in the bytes of the run's precision."""
    by_image = crops_by_image(images)
    with time_limit(job.image_timeout_s):
        encoded = engine.encode([crop for crops in by_image for crop in crops], batch_size)
    embeddings = embedding_column(encoded, [len(crops) for crops in by_image])
    return images.drop_columns(["crops"]).append_column("image_embeddings", embeddings)


def decode_masks(embeddings: pa.Table, engine: Engine, job: Job) -> pa.Table:
    """Replace image_embeddings and prompts by num_masks, masks (in the official order) and prompt_errors."""
    images = [
        EncodedImage(
            crops,
            (height, width),
            ImagePrompts() if height is None else resolve_prompts(unpack_prompts(prompts), (height, width)),
        )
        for crops, height, width, prompts in zip(
            embeddings_by_image(embeddings),
            *(embeddings[name].to_pylist() for name in ("height", "width", "prompts")),
            strict=True,
        )
    ]
    masks, errors = [], []
    found_by_image = each_in_time(engine.decode(images), job.image_timeout_s)
    for image, found in zip(images, found_by_image, strict=True):
        masks.append([mask.to_dict() for mask in found if isinstance(mask, MaskRecord)])
        without_mask = (error for error in found if isinstance(error, UnusablePrompt))
        errors.append([asdict(error) for error in (*image.prompts.errors, *without_mask)])
    return result_table(embeddings, masks, errors)


class Encoder:
    """Actor: crops → image embeddings."""

    def __init__(self, job: Job, batch_size: int, monitor: Any) -> None:
        self._job, self._batch_size, self._monitor = job, batch_size, monitor
        with report_errors(monitor), limit_memory_after(job.worker_memory_bytes):
            self._engine = job.backend.load(job, "encode")

    def __call__(self, block: pa.Table) -> pa.Table:
        """See encode_images; blocks in, blocks out."""
        with report_batch_errors(self._monitor):
            start, images = BlockStart(), images_of(block)
            encoded = as_block(encode_images(images, self._engine, self._batch_size, self._job))
        count_batches(self._job.run_id, num_crops(images), self._batch_size)
        report_time(self._monitor, self._job.run_id, "encode", images.num_rows, start)
        return encoded


class Decoder:
    """Actor: image embeddings → masks; reports each image to the driver."""

    def __init__(self, job: Job, monitor: Any) -> None:
        self._job, self._monitor = job, monitor
        with report_errors(monitor), limit_memory_after(job.worker_memory_bytes):
            self._engine = job.backend.load(job, "decode")

    def __call__(self, block: pa.Table) -> pa.Table:
        """See decode_masks; a block in, a row an image out."""
        with report_batch_errors(self._monitor):
            start = BlockStart()
            results = decode_masks(images_of(block), self._engine, self._job)
        report_time(self._monitor, self._job.run_id, "decode", results.num_rows, start)
        report_progress(self._monitor, self._job.run_id, results)
        return results


def report_progress(monitor: Any, run: str, results: pa.Table) -> None:
    """Report images to the driver, which shows what was done, and to Prometheus."""
    images = list(zip(results["status"].to_pylist(), results["num_masks"].to_pylist(), strict=True))
    monitor.add.remote(images)
    count_images(run, images)


def write_shard(results: pa.Table, job: Job, monitor: Any) -> pa.Table:
    """Put one shard; the driver commits it."""
    with report_errors(monitor), counted_retries(job.run_id):
        start = BlockStart()
        descriptor = put_results(results, job)
    report_time(monitor, job.run_id, "write", results.num_rows, start)
    return descriptor


def put_results(results: pa.Table, job: Job) -> pa.Table:
    """Put result rows as one shard; returns its descriptor."""
    with _place_of_shards(job) as output:
        shard = put_shard(output, results, job.storage_options, table_id=job.table_id)
    count_written(job.run_id, shard.file.size_bytes)
    return shard_row(shard)


@contextmanager
def _place_of_shards(job: Job) -> Iterator[str]:
    """The output; of a sample, a folder in this process's memory: whatever ends the process, nothing is left."""
    if not job.is_sample:
        yield job.output
        return
    folder = f"memory://{uuid.uuid4()}"
    try:
        yield folder
    finally:
        with suppress(FileNotFoundError):  # nothing was put
            fsspec.filesystem("memory").rm(folder, recursive=True)
