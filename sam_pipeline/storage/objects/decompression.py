"""Compressed files, read only while what they unpack to stays in proportion to their size."""

from __future__ import annotations

import gzip
import io
import sys
from typing import Any

# What a file of any size may unpack to, and beyond that how many times its size. Tables of names shrink to a tenth,
# images not at all; zeros to a thousandth (gzip) or a millionth (bzip2).
_FREE_BYTES = 2**28
_MAX_RATIO = 256
_CHUNK_BYTES = 2**20


class Decompressed(io.BufferedIOBase):
    """A decompressor as a file, read in steps; after each it is checked how much it unpacked from how much.

    Args:
        stream: the decompressor, such as gzip.GzipFile.
        compressed: the file that it reads.

    Raises:
        ValueError: in read and seek: it unpacks to more than is allowed.
    """

    def __init__(self, stream: Any, compressed: Any) -> None:
        self._stream, self._compressed = stream, compressed

    def readable(self) -> bool:
        """True, always."""
        return True

    def seekable(self) -> bool:
        """True, always; back means from the beginning."""
        return True

    def tell(self) -> int:
        """The position in what was unpacked."""
        position: int = self._stream.tell()
        return position

    def read(self, size: int | None = -1) -> bytes:
        """Read up to the end or size bytes; fewer only at the end."""
        wanted = sys.maxsize if size is None or size < 0 else size
        if wanted <= _CHUNK_BYTES:
            return self._step(wanted)
        data = io.BytesIO()
        while (left := wanted - data.tell()) and (chunk := self._step(min(left, _CHUNK_BYTES))):
            data.write(chunk)
        return data.getvalue()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to an offset from the beginning or from here, and no further than the end."""
        target = offset + (self.tell() if whence == io.SEEK_CUR else 0)
        if target < self.tell():
            self._stream.seek(target)
        while (left := target - self.tell()) > 0 and self._step(min(left, _CHUNK_BYTES)):
            pass
        return self.tell()

    def _step(self, size: int) -> bytes:
        data: bytes = self._stream.read(size)
        if self.tell() > _FREE_BYTES + _MAX_RATIO * self._compressed.tell():
            raise ValueError(
                f"it unpacks to more than {_MAX_RATIO} times its size, as no list or archive of images does"
            )
        return data


def gunzipped(file: io.BufferedIOBase) -> io.BufferedIOBase:
    """What a file compressed with gzip holds."""
    stream: Any = gzip.GzipFile(fileobj=file)
    return Decompressed(stream, file)
