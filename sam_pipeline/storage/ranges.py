"""Reading ranges of objects, each with a limit of time: a server may send one byte at a time, for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from fsspec.asyn import AsyncFileSystem, sync

RANGE_LIMIT_S = 120.0
"""For a range of some megabytes that the driver reads."""

Range = tuple[int | None, int | None]
"""First byte, and the one after the last."""


class TooSlowError(Exception):
    """The bytes did not come in time, although some may have."""


def read_range(filesystem: Any, path: str, start: int, end: int) -> bytes:
    """Read a range of an object; shorter only where the object ends.

    Raises:
        TimeoutError: it took longer than RANGE_LIMIT_S.
        Exception: whatever the storage says.
    """
    if not isinstance(filesystem, AsyncFileSystem):
        data: bytes = filesystem.cat_file(path, start=start, end=end)
        return data
    (answer,) = read_ranges(filesystem, [path], [(start, end)], RANGE_LIMIT_S)
    if isinstance(answer, TooSlowError):
        raise TimeoutError(str(answer)) from answer  # which may pass
    if isinstance(answer, Exception):
        raise answer
    return answer


def read_ranges(
    filesystem: Any, paths: Sequence[str], ranges: Sequence[Range], limit_s: float
) -> list[bytes | Exception]:
    """Read ranges of objects at once.

    The limit holds for stores that are asked over a network by fsspec's event loop: S3, Google, Azure, and http.

    Returns:
        For each the bytes, or the error: TooSlowError after limit_s seconds, or what the storage says.
    """
    if isinstance(filesystem, AsyncFileSystem):
        answers: list[bytes | Exception] = sync(filesystem.loop, _read_all, filesystem, paths, ranges, limit_s)
        return answers
    starts, ends = zip(*ranges, strict=True)
    # Not cat: it expands names that hold [, * or ? as globs, and raises where none of them exists.
    found: list[bytes | Exception] = filesystem.cat_ranges(list(paths), list(starts), list(ends), on_error="return")
    return found


async def _read_all(
    filesystem: Any, paths: Sequence[str], ranges: Sequence[Range], limit_s: float
) -> list[bytes | BaseException]:
    reads = [_read(filesystem, path, *where, limit_s) for path, where in zip(paths, ranges, strict=True)]
    return await asyncio.gather(*reads, return_exceptions=True)


async def _read(filesystem: Any, path: str, start: int | None, end: int | None, limit_s: float) -> bytes:
    try:
        async with asyncio.timeout(limit_s) as limit:
            data: bytes = await filesystem._cat_file(path, start=start, end=end)
            return data
    except TimeoutError:
        if not limit.expired():
            raise  # the client's own, of one wait
        # Without its cause, which would count as passing.
        raise TooSlowError(f"it did not come within {limit_s:g} s") from None
