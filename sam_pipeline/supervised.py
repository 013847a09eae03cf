"""The side of the child in supervisor.py: whether this process is one, and what it tells its parent."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterable
from contextlib import suppress

SOCKET = "SAM_PIPELINE_SUPERVISOR"
"""Environment variable with the descriptor of the child's end of the socket."""
NUM_RESTARTS = "SAM_PIPELINE_RESTARTS"
"""Environment variable with the number of children before this one."""


class _Child:
    """What this process is, if it is a child."""

    parent: socket.socket | None = None
    num_restarts = 0


def is_supervised() -> bool:
    """Whether this process is a child."""
    return _Child.parent is not None


def num_restarts() -> int:
    """How many children there were before this one."""
    return _Child.num_restarts


def accept_supervision(signals: Iterable[signal.Signals]) -> None:
    """Be a child, if the environment says so: when the parent is gone, this process gets a SIGTERM.

    Args:
        signals: which the parent has blocked for the time until there are handlers.
    """
    fd, num_restarts = os.environ.pop(SOCKET, None), os.environ.pop(NUM_RESTARTS, "0")
    if fd is None:
        return
    _Child.parent = socket.socket(fileno=int(fd))
    _Child.parent.set_inheritable(False)
    _Child.num_restarts = int(num_restarts)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
    threading.Thread(target=_end_with_parent, args=(_Child.parent,), name="supervisor", daemon=True).start()


def tell_exit_code(code: int) -> bool:
    """Let the parent know that this process ends by itself and says so, whatever Ray makes of its exit code.

    Returns:
        Whether this process may say so: it is no child, or its parent was told.
    """
    if _Child.parent is None:
        return True
    try:
        return _Child.parent.send(bytes([code])) == 1
    except OSError:
        return False


def silence_libraries() -> None:
    """Drop what C++ writes to file descriptor 2, which no log level stops; what Python prints there is kept."""
    usual = sys.stderr
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, encoding=usual.encoding, errors=usual.errors)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)


def _end_with_parent(parent: socket.socket) -> None:
    with suppress(OSError):
        parent.recv(1)
    _Child.parent = None
    os.kill(os.getpid(), signal.SIGTERM)
