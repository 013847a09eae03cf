"""What tar and zip archives have in common: many are indexed at once, and images are recognised by their names."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pyarrow as pa

from sam_pipeline.errors import InputError, SamPipelineError
from sam_pipeline.safety.clean_text import one_line
from sam_pipeline.storage.inputs.listing.files import IMAGE_SUFFIXES
from sam_pipeline.storage.inputs.listing.passed_over import Kind, PassedOver, hidden_folder
from sam_pipeline.storage.inputs.source_object import SourceObject, source_table
from sam_pipeline.storage.objects.range_file import StorageFaultError

_NUM_THREADS = 8
_MAX_INDEXES = 2 * _NUM_THREADS  # held at once: being made, or waiting for the archives before them
_TABLE_ROWS = 16_384

Member = SourceObject | tuple[Kind, str] | None
"""Of a file in an archive: its image; what is passed over, and its name; or None for a file that is no image."""

_Index = tuple[list[pa.Table], int, PassedOver]
"""The images of an archive, how many files of it were skipped, and what else was passed over."""


def tables_in_order(
    containers: Iterable[SourceObject],
    index: Callable[[SourceObject], Iterator[Member]],
    on_skipped: Callable[[int], None] | None,
) -> Iterator[pa.Table]:
    """Index archives in eight threads, and give what they hold in the order of the archives.

    At most 16 indexes are held. Ending the iteration early ends the threads. What is passed over is counted in the log.

    Args:
        containers: the archives.
        index: gives what is in one of them.
        on_skipped: called once for each archive with how many of its files are no images.

    Raises:
        InputError: an archive cannot be read.
        StorageUnavailableError: the storage did not answer for two minutes.
    """
    is_over = threading.Event()
    passed_over = PassedOver()

    def indexed(container: SourceObject) -> _Index:
        tables, images, num_skipped, others = [], [], 0, PassedOver()
        try:
            for found in index(container):
                if is_over.is_set():
                    break
                if found is None:
                    num_skipped += 1
                    continue
                if isinstance(found, tuple):
                    others.add(*found)
                    continue
                images.append(found)
                if len(images) == _TABLE_ROWS:
                    tables.append(source_table(images))
                    images.clear()
        except StorageFaultError as fault:
            if isinstance(fault.error, SamPipelineError):
                raise fault.error from fault.error.__cause__
            raise InputError(f"cannot read {container.uri}: {one_line(fault.error)}") from fault.error
        return [*tables, source_table(images)] if images else tables, num_skipped, others

    def answered(pending: deque[Future[_Index]]) -> Iterator[pa.Table]:
        tables, num_skipped, others = pending.popleft().result()
        passed_over.update(others)
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
        passed_over.log()
    finally:
        is_over.set()
        executor.shutdown(cancel_futures=True)


def in_hidden_folder(container: SourceObject, name: str) -> tuple[Kind, str] | None:
    """What to give for a member that is in a hidden folder; None if it is in none."""
    folder = hidden_folder(f"/{name}".replace("\\", "/"))  # as some programs on Windows write it
    return None if folder is None else ("hidden folder", f"{container.uri}#{folder[1:]}")


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


def broken(container: SourceObject, error: str) -> SourceObject:
    """The one row of an archive that says what is wrong with it as a whole."""
    return SourceObject(f"{container.uri}#", None, container.etag, error=error)
