"""Limits on what one image may take, which hold even where it loops or allocates inside a C library.

Both end in a dead worker or in an exception, and so in the same way as an image that crashes: its rows are missing
when the pass is over, and it is done again in isolation.
"""

from __future__ import annotations

import faulthandler
import resource
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import psutil

from sam_pipeline.errors import InputError

T = TypeVar("T")

READING_MEMORY_SHARE = 0.6

_CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """End this process if the block takes longer.

    Python's watchdog thread in C needs no GIL, so that it ends loops inside extensions too. There is one for the
    process: blocks must not be nested, and no two threads may be in one.
    """
    faulthandler.dump_traceback_later(seconds, exit=True, file=2)  # pytest, for one, replaces sys.stderr
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def each_in_time(items: Iterable[T], seconds: float) -> Iterator[T]:
    """Hand items on, and end this process if one of them takes longer."""
    iterator = iter(items)
    while True:
        with time_limit(seconds):
            try:
                item = next(iterator)
            except StopIteration:
                return
        yield item


def limit_memory(num_bytes: int) -> None:
    """Let allocations fail once this process has taken so much more private memory than now.

    Shared memory, such as Ray's objects, does not count. A limit that is set already stays: workers do many tasks.
    Linux enforces it; macOS accepts and ignores it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if soft == resource.RLIM_INFINITY:
        # Address space counts, not pages in use: threads and arenas of a fresh worker take more than a gigabyte of it.
        resource.setrlimit(resource.RLIMIT_DATA, (_private_bytes() + num_bytes, hard))


@contextmanager
def limit_memory_after(num_bytes: int) -> Iterator[None]:
    """Limit memory as limit_memory does, from the end of a block: what is loaded in it for all images is not limited.

    What CUDA maps is not limited either, with any driver. Linux counts private memory that can be written. CUDA
    reserves address space without access, and maps devices and pinned memory as shared: none of it counts (maps of
    processes in gvisor#9827 and gvisor#10331). What libraries take beside that counts, and most of it is there after a
    first run.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))  # Ray may have had this process do tasks before
    yield
    limit_memory(num_bytes)


@contextmanager
def reading_limit() -> Iterator[None]:
    """Let no list, archive or file of prompts take more than six tenths of this machine's memory while it is read.

    Raises:
        InputError: it would.
    """
    num_bytes = int(READING_MEMORY_SHARE * _machine_bytes())
    before = resource.getrlimit(resource.RLIMIT_DATA)
    limit_memory(num_bytes)
    try:
        yield
    except MemoryError as error:
        # The MemoryError is not shown: the size of the allocation that failed says nothing.
        raise InputError(
            f"what is read takes more than {num_bytes / 1e9:.1f} GB of memory, six tenths of this machine's; "
            "give it in parts, or keep fewer columns"
        ) from error
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def _machine_bytes() -> int:
    total = int(psutil.virtual_memory().total)
    with suppress(OSError, ValueError):  # no such file, or `max`
        return min(total, int(_CONTAINER_LIMIT.read_text()))
    return total


def _private_bytes() -> int:
    return int(getattr(psutil.Process().memory_info(), "data", 0))
