"""An object in storage as a file to seek in, of which only what is wanted is read."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from sam_pipeline.safety.clean_text import one_line
from sam_pipeline.storage.objects.filesystem import StorageOptions, open_filesystem
from sam_pipeline.storage.objects.ranges import read_range
from sam_pipeline.storage.objects.retrying import retried

# After a jump this holds the headers of a WebDataset sample: of its picture, and of a few small files beside it.
_MIN_READ_BYTES = 2**13
_MAX_READ_BYTES = 2**22
# Skipping less costs more in requests than it spares in bytes.
_NEAR_BYTES = 2**16
# No archive asks for more in good faith.
_MAX_AT_ONCE_BYTES = 2**28


class StorageFaultError(Exception):
    """Storage failed, and not what an archive holds.

    Not an OSError, which decompressors take for, or raise at, damaged data.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(one_line(error))
        self.error = error


class RangeFile:
    """An object as a seekable file, read by ranges of bytes of which each is tried again by itself.

    It reads ahead: 8 KiB after a jump, and twice as much each time, up to 4 MiB, while little or nothing is skipped.

    Args:
        uri: of the object.
        size_bytes: of the object; None: asked for.
        options: of the storage.
        limit_s: see retrying.retried.

    Raises:
        StorageFaultError: here and in read: the range cannot be read.
        ValueError: in read: more than 256 MiB at once.
    """

    def __init__(self, uri: str, size_bytes: int | None, options: StorageOptions, *, limit_s: float = 120) -> None:
        self.uri = uri
        self._filesystem, self._path = open_filesystem(uri, options)
        self._retried = partial(retried, what=f"read {uri}", limit_s=limit_s)
        self._position = self._start = 0
        self._held = b""
        self._ahead_bytes = _MIN_READ_BYTES
        self.size_bytes = self._from_storage(self._size_now) if size_bytes is None else size_bytes

    def seekable(self) -> bool:
        """True, always."""
        return True

    def readable(self) -> bool:
        """True, always."""
        return True

    def tell(self) -> int:
        """The position, in bytes from the beginning."""
        return self._position

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move to an offset from the beginning (0), here (1) or the end (2), and no further than the end."""
        start = (0, self._position, self.size_bytes)[whence]
        if start + offset < 0:
            raise OSError(f"{start + offset} is before the beginning")
        self._position = min(start + offset, self.size_bytes)
        return self._position

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
            self._start, self._held = first, begun + self._from_storage(fetch)
        self._position = last
        return self._held[first - self._start : last - self._start]

    def _from_storage(self, call: Callable[[], Any]) -> Any:
        try:
            return self._retried(call)
        except MemoryError:
            raise
        except Exception as error:
            raise StorageFaultError(error) from error

    def _range(self, start: int, end: int) -> bytes:
        data = read_range(self._filesystem, self._path, start, end)
        if len(data) == end - start:
            return data
        if (size_now := self._size_now()) != self.size_bytes:
            raise ValueError(f"listed with {self.size_bytes} bytes, now {size_now}")
        raise ConnectionError(f"{len(data)} of {end - start} bytes came")

    def _size_now(self) -> int:
        self._filesystem.invalidate_cache()
        size_bytes: int = self._filesystem.info(self._path)["size"]
        return size_bytes
