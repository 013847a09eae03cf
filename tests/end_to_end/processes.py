"""Starting programs in sessions of their own, and finding and killing every process that came of them."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO

import psutil

TIMEOUT_S = 300
"""For anything that a test waits for; generous, because test machines are shared."""


@dataclass(frozen=True)
class Finished:
    """What a program left behind."""

    exit_code: int
    stdout: str
    stderr: str
    elapsed_s: float
    peak_memory_bytes: int
    """Largest proportional set size of the program and everything it started; 0 if it was not measured."""


class Program:
    """A running program.

    Its output goes to files, not pipes: a pipe that a surviving daemon holds open would never end.

    Args:
        command: program and arguments.
        env: its whole environment.
    """

    def __init__(self, command: Sequence[str], env: Mapping[str, str]) -> None:
        self._stdout, self._stderr = tempfile.TemporaryFile(), tempfile.TemporaryFile()
        self._start = time.monotonic()
        self.process = subprocess.Popen(
            command, env=env, stdin=subprocess.DEVNULL, stdout=self._stdout, stderr=self._stderr, start_new_session=True
        )
        self._sessions = {self.process.pid}

    def wait(self, *, measure: bool = False) -> Finished:
        """Wait for the end.

        Args:
            measure: sample the memory of the whole tree twice a second.

        Raises:
            AssertionError: it did not end in time; it was killed.
        """
        peak = 0
        while self.process.poll() is None:
            if measure:
                peak = max(peak, sum(_memory_bytes(member) for member in self.members()))
            if time.monotonic() - self._start > TIMEOUT_S:
                self.kill()
                raise AssertionError(f"no end after {TIMEOUT_S} s:\n{_content(self._stderr)[-4000:]}")
            time.sleep(0.5 if measure else 0.05)
        elapsed_s = time.monotonic() - self._start
        self.kill()  # daemons that outlive it for a moment
        stdout, stderr = _content(self._stdout), _content(self._stderr)
        self._stdout.close()
        self._stderr.close()
        return Finished(self.process.returncode, stdout, stderr, elapsed_s, peak)

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Poll a condition while the program runs.

        Raises:
            AssertionError: the program ended first, or time ran out.
        """
        while not condition():
            ended, late = self.process.poll() is not None, time.monotonic() - self._start > TIMEOUT_S
            if ended or late:
                self.kill()
                reason = "the program ended" if ended else "time ran out"
                raise AssertionError(f"{reason} before the condition held:\n{_content(self._stderr)[-4000:]}")
            time.sleep(0.05)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the program alone."""
        self.process.send_signal(number)

    def members(self) -> list[psutil.Process]:
        """The program, its descendants, and orphans of the sessions that any of them ever led.

        Ray's daemons and workers have process groups of their own, and become orphans when what started them dies; a
        job's driver has a session of its own.
        """
        found = {process.pid: process for process in _descendants(self.process.pid)}
        self._sessions |= {_session(pid) for pid in found} - {os.getsid(0), None}
        for process in psutil.process_iter():
            if _session(process.pid) in self._sessions:
                found[process.pid] = process
        return [process for process in found.values() if _is_alive(process)]

    def kill(self) -> None:
        """Kill all of them at once, as a power cut would, and wait until none is left."""
        deadline = time.monotonic() + 60
        while members := self.members():
            for member in members:
                if member.is_running():  # and its id was not given to another process
                    member.kill()
            self.process.poll()  # our own child stays a zombie until we look
            assert time.monotonic() < deadline, f"these survive SIGKILL: {members}"
            time.sleep(0.02)
        self.process.wait()


def run(command: Sequence[str], env: Mapping[str, str], *, measure: bool = False) -> Finished:
    """Run a program to its end."""
    return Program(command, env).wait(measure=measure)


def _descendants(pid: int) -> list[psutil.Process]:
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _memory_bytes(process: psutil.Process) -> int:
    try:
        memory: int = process.memory_full_info().pss
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0
    return memory


def _content(stream: IO[bytes]) -> str:
    stream.seek(0)
    return stream.read().decode(errors="replace")
