"""Running the command in a child process, since Ray may end the process that it runs in.

When the head of a cluster is silent for a minute, or comes back as another, Ray's C++ ends the driver immediately, with
exit code 1 and no message, and Python cannot prevent it. So there is a parent that says it, and starts again.

The child is the same command. A socket connects the two: the child tells its exit code when it ends by itself, and
ends when its parent is gone.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial

from sam_pipeline.errors import RunFailedError
from sam_pipeline.process import stopping
from sam_pipeline.process.supervised import NUM_RESTARTS, RESTARTS_PIPE, SOCKET, START_ID, start_id

_CHILD_DEADLINE_S = 1.9
_MAX_PAUSE_S = 60
_MAX_TOLD = 2**16  # what a pipe holds
_PR_SET_CHILD_SUBREAPER = 36

logger = logging.getLogger(__name__)


class _State:
    """State of this process."""

    is_wanted = False


def want(is_wanted: bool) -> None:
    """Say whether a command that uses Ray is to run in a child."""
    _State.is_wanted = is_wanted


def is_wanted() -> bool:
    """Whether a command that uses Ray is to run in a child: the process was started for it, and is no child itself."""
    return _State.is_wanted


def supervise(max_restarts: int) -> int:
    """Run this command in a child, and again when something else than itself ends it.

    Args:
        max_restarts: how often the run may start again, here and in its children together.

    Returns:
        The child's exit code; the child has printed its own last line.

    Raises:
        RunFailedError: it was ended once more than it may start again.
    """
    _adopt_orphans()
    restarts, told_restarts = os.pipe()
    os.set_blocking(restarts, False)
    num_restarts = 0
    while True:
        child, connection = _start_child(num_restarts, told_restarts)
        with connection:
            stopping.ask_before_speaking(partial(_may_speak, connection))
            try:
                child.wait()
            except KeyboardInterrupt:
                child.send_signal(stopping.received())  # it may have it already, and does not mind
                with suppress(subprocess.TimeoutExpired):
                    child.wait(_CHILD_DEADLINE_S)
                code = _exit_code_told(connection)
                if code is None:  # it could not even say so
                    stopping.end(stopping.exit_code(), stopping.last_words())
                stopping.end(code, "")  # another one than that of the signal, if it was at its end already
            code = _exit_code_told(connection)
        stopping.kill_descendants()  # what it left
        if code is not None:
            return code
        error = f"the run was ended {_by_what(child.returncode)}"
        with suppress(BlockingIOError):
            num_restarts += len(os.read(restarts, _MAX_TOLD))
        if num_restarts >= max_restarts:
            break
        num_restarts += 1
        logger.warning("start %d failed: %s; starting again", num_restarts, error)
        time.sleep(min(_MAX_PAUSE_S, 2 ** (num_restarts - 1)))
    raise RunFailedError(f"{error}; the same command resumes")


def _start_child(num_restarts: int, restarts_pipe: int) -> tuple[subprocess.Popen[bytes], socket.socket]:
    ours, theirs = socket.socketpair()
    with theirs:
        fd = theirs.fileno()
        told = {SOCKET: str(fd), NUM_RESTARTS: str(num_restarts), RESTARTS_PIPE: str(restarts_pipe)}
        env = os.environ | told | {START_ID: start_id()}
        # The child unblocks these signals once it can handle them.
        unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, stopping.SIGNALS)
        try:
            return subprocess.Popen([sys.executable, *sys.orig_argv[1:]], env=env, pass_fds=[fd, restarts_pipe]), ours
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)


def _may_speak(connection: socket.socket, _: int) -> bool:
    # Called when the child is dead. If it has told no exit code, it has printed no last line, so the parent does.
    return _exit_code_told(connection) is None


def _exit_code_told(connection: socket.socket) -> int | None:
    connection.setblocking(False)
    with suppress(OSError):
        if told := connection.recv(16, socket.MSG_PEEK):
            return told[-1]
    return None


def _by_what(exit_code: int) -> str:
    if exit_code == -signal.SIGKILL:
        return "by SIGKILL, perhaps because its machine was out of memory"
    if exit_code < 0:
        return f"by {signal.Signals(-exit_code).name}"
    return "by Ray, most likely because the head of its cluster was lost"


def _adopt_orphans() -> None:
    """On Linux, become the parent of what a child leaves, to find and end it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
