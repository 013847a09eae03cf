"""An object in storage as a file: ranges of it are read, and not the whole object."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from sam_pipeline.safety.clean_text import one_line
from sam_pipeline.storage.objects.filesystem import StorageOptions, open_filesystem
from sam_pipeline.storage.objects.ranges import read_range
from sam_pipeline.storage.objects.retrying import retried

PART_BYTES = 8 << 20
"""No more of an object is asked for at once, so that each request has the time of ranges.RANGE_LIMIT_S."""

# After a jump this holds the headers of a WebDataset sample: of its picture, and of a few small files beside it.
_MIN_READ_BYTES = 2**13
_MAX_READ_BYTES = 2**22
# Skipping less costs more in requests than it spares in bytes.
_NEAR_BYTES = 2**16
# No archive asks for more in good faith.
_MAX_AT_ONCE_BYTES = 2**28


class StorageFaultError(Exception):
    """Storage failed; the archive itself may be sound.

    It is no OSError, because decompressors raise OSErrors at damaged data, or take them for damage.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(one_line(error))
        self.error = error


class ObjectFile(io.RawIOBase):
    """An object as a file: only what is asked for is read, in requests of up to 8 MiB.

    Args:
        filesystem: of fsspec.
        path: of the object.
        info: what the filesystem says of it: its size, and on S3 the ETag that it must still have when it is read.
        retry: makes the request for a part, and makes it again where that may help. Without one it is made once.

    Raises:
        OSError: in seek: before the beginning.
        ConnectionError: in read: fewer bytes came than there are.
        Exception: in read: see read_range.
    """

    def __init__(
        self,
        filesystem: Any,
        path: str,
        info: Mapping[str, Any],
        retry: Callable[[Callable[[], Any]], Any] = lambda call: call(),
    ) -> None:
        self.size_bytes: int = info["size"]
        self._filesystem, self._path, self._etag, self._retry = filesystem, path, info.get("ETag"), retry
        self._position = 0

    def readable(self) -> bool:
        """True, always."""
        return True

    def seekable(self) -> bool:
        """True, always."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to an offset from the beginning, here or the end, and no further than the end."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size_bytes}[whence]
        if start + offset < 0:
            raise OSError(f"{start + offset} is before the beginning")
        self._position = min(start + offset, self.size_bytes)
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer, unless the object ends before."""
        start, end = self._position, min(self._position + len(buffer), self.size_bytes)
        for first in range(start, end, PART_BYTES):
            last = min(first + PART_BYTES, end)
            buffer[first - start : last - start] = self._retry(partial(self._range, first, last))
        self._position = end
        return end - start

    def _range(self, start: int, end: int) -> bytes:
        data = read_range(self._filesystem, self._path, start, end, self._etag)
        if len(data) != end - start:
            self._check_size()
            raise ConnectionError(f"{len(data)} of {end - start} bytes came")
        return data

    def _check_size(self) -> None:
        """Called where fewer bytes came than were asked for."""


class ReadAheadFile(ObjectFile):
    """An archive as a file that reads ahead.

    It reads at least 8 KiB after a jump, and twice as much with each further request close behind, up to 4 MiB.

    Args:
        uri: of the archive.
        size_bytes: of the archive; None: asked for.
        storage_options: of the storage.
        limit_s: see retrying.retried, with which each request is made.

    Raises:
        StorageFaultError: here and in read: the range cannot be read.
        ValueError: in read: more than 256 MiB at once.
    """

    def __init__(
        self, uri: str, size_bytes: int | None, storage_options: StorageOptions, *, limit_s: float = 120
    ) -> None:
        self.uri = uri
        retry = partial(retried, what=f"read {uri}", limit_s=limit_s)
        super().__init__(*open_filesystem(uri, storage_options), {"size": size_bytes}, partial(_from_storage, retry))
        self._start, self._held = 0, b""
        self._ahead_bytes = _MIN_READ_BYTES
        if size_bytes is None:
            self.size_bytes = self._retry(self._size_now)

    def read(self, size: int = -1) -> bytes:
        """Read up to the end or size bytes; fewer only at the end."""
        first, last = self._position, self.size_bytes
        if size >= 0:
            last = min(first + size, last)
        if first >= last:
            return b""
        if last - first > _MAX_AT_ONCE_BYTES:
            raise ValueError(f"{last - first} bytes to be read at once, the limit is {_MAX_AT_ONCE_BYTES}")
        held_to = self._start + len(self._held)
        if not (self._start <= first and last <= held_to):
            is_near = self._start <= first <= held_to + _NEAR_BYTES
            self._ahead_bytes = min(2 * self._ahead_bytes, _MAX_READ_BYTES) if is_near else _MIN_READ_BYTES
            begun = self._held[first - self._start :] if self._start <= first < held_to else b""
            begin = first + len(begun)
            fetch = partial(self._range, begin, min(max(last, begin + self._ahead_bytes), self.size_bytes))
            self._start, self._held = first, begun + self._retry(fetch)
        self._position = last
        return self._held[first - self._start : last - self._start]

    def _check_size(self) -> None:
        if (size_now := self._size_now()) != self.size_bytes:
            raise ValueError(f"listed with {self.size_bytes} bytes, now {size_now}")

    def _size_now(self) -> int:
        self._filesystem.invalidate_cache()
        size_bytes: int = self._filesystem.info(self._path)["size"]
        return size_bytes


def _from_storage(retry: Callable[[Callable[[], Any]], Any], call: Callable[[], Any]) -> Any:
    try:
        return retry(call)
    except MemoryError:
        raise
    except Exception as error:
        raise StorageFaultError(error) from error
