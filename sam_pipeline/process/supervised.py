"""The side of the child in supervisor.py: whether this process is one, and what it tells its parent."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import uuid
from collections.abc import Iterable
from contextlib import suppress

SOCKET = "SAM_PIPELINE_SUPERVISOR"
"""Environment variable with the descriptor of the child's end of the socket."""
NUM_RESTARTS = "SAM_PIPELINE_RESTARTS"
"""Environment variable with the number of restarts before this child: by its parent, and in the children before."""
RESTARTS_PIPE = "SAM_PIPELINE_RESTARTS_PIPE"
"""Environment variable with the descriptor of a pipe that gets a byte for each restart in this child."""
START_ID = "SAM_PIPELINE_START_ID"
"""Environment variable with start_id() of the parent."""


class _Child:
    """State of this process, if it is a child."""

    parent: socket.socket | None = None
    num_restarts = 0
    restarts_pipe: int | None = None
    start_id: str | None = None


def is_supervised() -> bool:
    """Whether this process is a child."""
    return _Child.parent is not None


def num_restarts() -> int:
    """How often the run had been started again when this process began; 0 for the first child."""
    return _Child.num_restarts


def start_id() -> str:
    """A random name of this command, the same in a parent and all its children: for its log and its records."""
    if _Child.start_id is None:
        _Child.start_id = uuid.uuid4().hex
    return _Child.start_id


def accept_supervision(signals: Iterable[signal.Signals]) -> None:
    """Be a child, if the environment says so: when the parent is gone, this process gets a SIGTERM.

    Args:
        signals: which the parent has blocked for the time until there are handlers.
    """
    fd, num_restarts = os.environ.pop(SOCKET, None), os.environ.pop(NUM_RESTARTS, "0")
    pipe, start_id = os.environ.pop(RESTARTS_PIPE, None), os.environ.pop(START_ID, None)
    if fd is None or pipe is None:
        return
    _Child.start_id = start_id
    _Child.parent = socket.socket(fileno=int(fd))
    _Child.parent.set_inheritable(False)
    _Child.num_restarts = int(num_restarts)
    _Child.restarts_pipe = int(pipe)
    os.set_inheritable(_Child.restarts_pipe, False)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
    threading.Thread(target=_end_with_parent, args=(_Child.parent,), name="supervisor", daemon=True).start()


def tell_exit_code(code: int) -> bool:
    """Tell the parent that this process ends by itself, and with which code: Ray may change its exit code.

    Returns:
        Whether this process may print its last line: it is no child, or its parent was told.
    """
    if _Child.parent is None:
        return True
    try:
        return _Child.parent.send(bytes([code])) == 1
    except OSError:
        return False


def tell_restart() -> None:
    """Let the parent know that the run starts again in this process: all restarts count together."""
    if _Child.restarts_pipe is not None:
        os.write(_Child.restarts_pipe, b".")


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
