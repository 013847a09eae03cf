"""What tar and zip archives have in common: many are indexed at once, and their images are told by their names."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pyarrow as pa

from sam_pipeline.clean_text import one_line
from sam_pipeline.errors import InputError, SamPipelineError
from sam_pipeline.storage.sources.files import IMAGE_SUFFIXES
from sam_pipeline.storage.sources.range_file import StorageFaultError
from sam_pipeline.storage.sources.source_image import SourceImage, source_table

_NUM_THREADS = 8
_MAX_INDEXES = 2 * _NUM_THREADS  # held at once: being made, or waiting for the archives before them
_TABLE_ROWS = 16_384

_Index = tuple[list[pa.Table], int]
"""The images of an archive, and how many files of it were skipped."""


def tables_in_order(
    containers: Iterable[SourceImage],
    index: Callable[[SourceImage], Iterator[SourceImage | None]],
    on_skipped: Callable[[int], None] | None,
) -> Iterator[pa.Table]:
    """Index archives in eight threads, and give what they hold in the order of the archives.

    At most 16 indexes are held. Ending the iteration early ends the threads.

    Args:
        containers: the archives.
        index: gives the images of one of them, and None for each file skipped.
        on_skipped: called once for each archive with the number of None.

    Raises:
        InputError: an archive cannot be read.
        StorageUnavailableError: the storage did not answer for two minutes.
    """
    is_over = threading.Event()

    def indexed(container: SourceImage) -> _Index:
        tables, images, num_skipped = [], [], 0
        try:
            for image in index(container):
                if is_over.is_set():
                    break
                if image is None:
                    num_skipped += 1
                    continue
                images.append(image)
                if len(images) == _TABLE_ROWS:
                    tables.append(source_table(images))
                    images.clear()
        except StorageFaultError as fault:
            if isinstance(fault.error, SamPipelineError):
                raise fault.error from fault.error.__cause__
            raise InputError(f"cannot read {container.uri}: {one_line(fault.error)}") from fault.error
        return [*tables, source_table(images)] if images else tables, num_skipped

    def answered(pending: deque[Future[_Index]]) -> Iterator[pa.Table]:
        tables, num_skipped = pending.popleft().result()
        if on_skipped is not None:
            on_skipped(num_skipped)
        yield from tables

    executor = ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="index")
    futures: deque[Future[_Index]] = deque()
    try:
        for container in containers:
            if len(futures) == _MAX_INDEXES:
                yield from answered(futures)
            futures.append(executor.submit(indexed, container))
        while futures:
            yield from answered(futures)
    finally:
        is_over.set()
        executor.shutdown(cancel_futures=True)


def is_image(name: str) -> bool:
    """Whether a member's name is that of an image, and not hidden."""
    base = name.rsplit("/", 1)[-1]
    return not base.startswith(".") and base.lower().endswith(IMAGE_SUFFIXES)


def unique(name: str, seen: Counter[str]) -> str:
    """The name of an image, with ~2, ~3, … if it was seen before.

    That is never the name of another image: those end in a suffix of images.
    """
    seen[name] += 1
    return name if seen[name] == 1 else f"{name}~{seen[name]}"


def broken(container: SourceImage, error: str) -> SourceImage:
    """The one row of an archive that says what is wrong with it as a whole."""
    return SourceImage(f"{container.uri}#", None, container.etag, error=error)
