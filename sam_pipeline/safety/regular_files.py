"""Opening files of this machine that anybody may have named: regular ones, and nothing else.

A FIFO blocks whoever opens it, a device may give bytes without end, a terminal waits for a key.
"""

from __future__ import annotations

import errno
import io
import os
import stat

_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class NotRegularFileError(OSError):
    """The name is that of a FIFO, a device, a socket or the like: neither a regular file nor a folder."""


def open_regular(path: str | os.PathLike[str]) -> io.BufferedReader:
    """Open a file for reading; links are followed.

    Raises:
        NotRegularFileError: it is a FIFO, a device or a socket; nothing of it was read.
        OSError: as open raises it; IsADirectoryError for a folder.
    """
    _check(path, os.stat(path))  # first, because opening alone sets some devices going
    file = open(path, "rb", opener=_open_without_waiting)  # noqa: SIM115  the caller closes it
    try:
        _check(path, os.fstat(file.fileno()))  # it may have been replaced
    except OSError:
        file.close()
        raise
    return file


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def _check(path: str | os.PathLike[str], status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something else")
        raise NotRegularFileError(errno.EINVAL, f"it is {kind}, not a regular file", os.fspath(path))
