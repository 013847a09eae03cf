"""How the command line ends when a signal asks it to, or when it hangs: fast, with one line, and no process left.

A signal is raised as KeyboardInterrupt, as Python does on Ctrl-C, so that what is ready can be committed. A second
or two later the process ends in any case, whatever its main thread waits for.

Only the command line uses `ends_on_signals`. A program that calls this package keeps its own handlers.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import wraps
from types import FrameType
from typing import NoReturn, ParamSpec, TypeVar

import psutil

from sam_pipeline.process import supervised

P = ParamSpec("P")
T = TypeVar("T")

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
"""The signals that end the program."""

# `ray job stop` sends SIGKILL after three seconds. A child ends before its supervisor does, and says so.
_DEADLINE_S = 2.2
_SUPERVISED_DEADLINE_S = 1.5
_SHOW_CURSOR = "\x1b[?25h"


class _State:
    """State of this process: signal handlers belong to the process too."""

    is_installed = False
    received: signal.Signals | None = None
    num_shields = 0
    is_deferred = False
    has_spoken = False
    # Parent and child may both end, and only one of them prints the last line.
    may_speak: Callable[[int], bool] = supervised.tell_exit_code
    format_line: Callable[[str], str] = str
    # Taken by the first thread that ends the process, and never given back.
    ending = threading.Lock()


def ends_on_signals(main: Callable[P, T]) -> Callable[P, T]:
    """Decorate the main function of a program: SIGINT, SIGTERM and SIGHUP end it with exit code 128 + signal.

    A signal that was ignored when the program started (by nohup) stays ignored.
    """

    @wraps(main)
    def decorated(*args: P.args, **kwargs: P.kwargs) -> T:
        if threading.current_thread() is not threading.main_thread():
            return main(*args, **kwargs)
        with _handlers():
            try:
                return main(*args, **kwargs)
            except SystemExit as ended:
                supervised.tell_exit_code(ended.code if isinstance(ended.code, int) else 1)
                raise
            finally:
                if is_stopping():
                    end(exit_code(), last_words())

    return decorated


def is_stopping() -> bool:
    """Whether a signal has arrived: from then on nothing should wait."""
    return _State.received is not None


def received() -> signal.Signals:
    """The signal that ends the program."""
    return _State.received or signal.SIGINT


def exit_code() -> int:
    """The exit code after a signal."""
    return 128 + received()


def last_words() -> str:
    """What to say after a signal; nothing, if another thread is saying it."""
    if _State.has_spoken:
        return ""
    _State.has_spoken = True
    how = "interrupted" if received() == signal.SIGINT else f"ended by {received().name}"
    return f"{how}; the same command resumes"


@contextmanager
def shielded() -> Iterator[None]:
    """Let a signal that comes within the block take effect at its end."""
    _State.num_shields += 1
    try:
        yield
    finally:
        _State.num_shields -= 1
    if _State.is_deferred and not _State.num_shields:
        _State.is_deferred = False
        raise KeyboardInterrupt


def ask_before_speaking(may_speak: Callable[[int], bool]) -> None:
    """Set who decides whether this process prints its last line; called with the exit code, when no child is left."""
    _State.may_speak = may_speak


def speak_with(format_line: Callable[[str], str]) -> None:
    """Set the function that formats the last line: as an event, where standard error is JSON."""
    _State.format_line = format_line


def end_if_command_line(code: int, line: str) -> None:
    """End the process from any thread, whatever its main thread waits for. Does nothing outside our command line."""
    if _State.is_installed:
        end(code, line)


def end(code: int, line: str) -> NoReturn:
    """End the process and all its descendants immediately."""
    if not _State.ending.acquire(timeout=0.5):
        os._exit(code)  # another thread is ending the process, and hangs
    kill_descendants()  # before printing, which may wait for whoever reads
    may_speak = _State.may_speak(code)
    with suppress(OSError, ValueError):
        if line and may_speak:
            line = _State.format_line(line)
            line = _SHOW_CURSOR + line if sys.stderr.isatty() else line
            os.write(sys.stderr.fileno(), f"{line}\n".encode())
        sys.stdout.flush()
    os._exit(code)


def kill_descendants() -> None:
    """Kill all descendants of this process."""
    kill(psutil.Process().children(recursive=True))


def kill(processes: Sequence[psutil.Process]) -> None:
    """Kill processes; parents should come first, so that they replace none."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=0.3)


@contextmanager
def _handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    taken = [number for number, handler in before.items() if handler not in (signal.SIG_IGN, None)]
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    fd_before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    # Python runs a handler only between two bytecodes of the main thread, which may be waiting within a library. The
    # number of the signal is in this pipe immediately, and a thread reads it.
    threading.Thread(target=_end_in_time, args=(reader, taken), name="signals", daemon=True).start()
    for number in taken:
        signal.signal(number, _on_signal)
    _State.is_installed, _State.has_spoken = True, False
    try:
        yield
    finally:
        _State.is_installed = False
        for number in taken:
            signal.signal(number, before[number])
        signal.set_wakeup_fd(fd_before)
        os.close(writer)


def _on_signal(number: int, _: FrameType | None) -> None:
    if is_stopping():
        return  # the end is under way
    _State.received = signal.Signals(number)
    if _State.num_shields:
        _State.is_deferred = True
    else:
        raise KeyboardInterrupt


def _end_in_time(reader: int, taken: list[signal.Signals]) -> None:
    while numbers := os.read(reader, 1):
        if numbers[0] in taken:
            time.sleep(_SUPERVISED_DEADLINE_S if supervised.is_supervised() else _DEADLINE_S)
            _State.received = _State.received or signal.Signals(numbers[0])
            end(exit_code(), last_words())
    os.close(reader)
