"""The local disk as an fsspec filesystem that reads regular files only, and no more than their size at the opening."""

from __future__ import annotations

import os
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from sam_pipeline.safety.regular_files import open_regular


class LocalFiles(LocalFileSystem):  # type: ignore[misc]  # fsspec has no types
    """fsspec's local filesystem, with another way to open files for reading.

    Reading raises NotRegularFileError for a FIFO, a device or a socket, and IsADirectoryError for a folder.
    """

    def _open(self, path: str, mode: str = "rb", block_size: int | None = None, **options: Any) -> Any:
        if mode != "rb":
            return super()._open(path, mode, block_size, **options)
        return open_regular(self._strip_protocol(path))

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        """Bytes start ≤ i < end; of a file that grows meanwhile at most one more than it had."""
        with open_regular(self._strip_protocol(path)) as file:
            most = os.fstat(file.fileno()).st_size + 1  # a read allocates what is asked for
            first, last = start or 0, most if end is None else min(end, most)
            file.seek(first)
            return file.read(max(0, last - first)) or b""  # None: a file of the kernel's without data yet
