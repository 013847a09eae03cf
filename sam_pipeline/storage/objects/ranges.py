"""Reading ranges of objects, each with a limit of time: a server may send one byte at a time, for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from fsspec.asyn import AsyncFileSystem, sync

RANGE_LIMIT_S = 120.0
"""Seconds for one range of some megabytes, where an object is read in order or in steps."""

Range = tuple[int | None, int | None]
"""First byte, and the one after the last."""


class TooSlowError(Exception):
    """The bytes did not come in time, although some may have."""


def read_range(filesystem: Any, path: str, start: int, end: int, etag: str | None = None) -> bytes:
    """Read a range of an object; shorter only where the object ends.

    Args:
        filesystem: of fsspec.
        path: of the object.
        start: first byte.
        end: the byte after the last.
        etag: that the object must still have, where the store is S3.

    Raises:
        TimeoutError: it took longer than RANGE_LIMIT_S.
        Exception: whatever the storage says.
    """
    if not isinstance(filesystem, AsyncFileSystem):
        data: bytes = filesystem.cat_file(path, start=start, end=end)
        return data
    try:
        answer: bytes = sync(filesystem.loop, _read, filesystem, path, start, end, RANGE_LIMIT_S, etag)
    except TooSlowError as error:
        raise TimeoutError(str(error)) from error  # which is transient
    return answer


def read_ranges(
    filesystem: Any, paths: Sequence[str], ranges: Sequence[Range], limit_s: float
) -> list[bytes | Exception]:
    """Read ranges of objects in parallel.

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


async def _read(
    filesystem: Any, path: str, start: int | None, end: int | None, limit_s: float, etag: str | None = None
) -> bytes:
    try:
        async with asyncio.timeout(limit_s) as limit:
            if etag is not None and "s3" in filesystem.protocol:
                return await _read_unchanged(filesystem, path, start, end, etag)
            data: bytes = await filesystem._cat_file(path, start=start, end=end)
            return data
    except TimeoutError:
        if not limit.expired():
            raise  # the client's own, of one wait
        # Without its cause, which would count as transient.
        raise TooSlowError(f"it did not come within {limit_s:g} s") from None


async def _read_unchanged(filesystem: Any, path: str, start: int | None, end: int | None, etag: str) -> bytes:
    """As s3fs's files read; its _cat_file takes no ETag."""
    assert start is not None, "read_range has both"
    assert end is not None, "read_range has both"
    bucket, key, _ = filesystem.split_path(path)
    where = {"Bucket": bucket, "Key": key, "Range": f"bytes={start}-{end - 1}", "IfMatch": etag}
    answer = await filesystem._call_s3("get_object", **where, **filesystem.req_kw)
    async with answer["Body"] as body:
        data: bytes = await body.read()
        return data
