"""Starting programs in sessions of their own, and finding and killing every process that came of them."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

SCRIPTS = Path(sysconfig.get_path("scripts"))

TIMEOUT_S = 300
"""For anything that a test waits for; generous, because test machines are shared."""


@dataclass(frozen=True)
class Finished:
    """What a program left behind."""

    exit_code: int
    stdout: str
    stderr: str
    elapsed_s: float


class Program:
    """A running program.

    Its output goes to files, not pipes: a pipe that a surviving daemon holds open would never end.

    Args:
        command: program and arguments.
        env: its whole environment.
        log_folder: for its output; nothing else may be there.
    """

    def __init__(self, command: Sequence[str], env: Mapping[str, str], log_folder: Path) -> None:
        self._stdout, self._stderr = log_folder / "stdout", log_folder / "stderr"
        self._start = time.monotonic()
        with self._stdout.open("xb") as stdout, self._stderr.open("xb") as stderr:
            self.process = subprocess.Popen(
                command, env=env, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, start_new_session=True
            )
        self._sessions = {self.process.pid}
        self._is_over = False

    def wait(self, watch: Callable[[], object] | None = None, timeout_s: float = TIMEOUT_S) -> Finished:
        """Wait for the end.

        Args:
            watch: called several times a second until then.
            timeout_s: how long that may take.

        Raises:
            AssertionError: it did not end in time; it was killed.
        """
        while self.process.poll() is None:
            if watch is not None:
                watch()
            if time.monotonic() - self._start > timeout_s:
                self.kill()
                raise AssertionError(f"no end after {timeout_s:g} s:\n{self._last_words()}")
            time.sleep(0.1)
        elapsed_s = time.monotonic() - self._start
        self.kill()  # daemons that outlive it for a moment
        stdout, stderr = self._stdout.read_text(errors="replace"), self._stderr.read_text(errors="replace")
        return Finished(self.process.returncode, stdout, stderr, elapsed_s)

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
                raise AssertionError(f"{reason} before the condition held:\n{self._last_words()}")
            time.sleep(0.05)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the program alone."""
        self.process.send_signal(number)

    def driver(self) -> psutil.Process:
        """The process that does the work: the child of its supervisor, where there is one."""
        process = psutil.Process(self.process.pid)
        return next((child for child in process.children() if child.cmdline() == process.cmdline()), process)

    def stderr(self) -> str:
        """What it has written there so far."""
        return self._stderr.read_text(errors="replace")

    def memory_bytes(self) -> int:
        """Proportional set size of the program and everything it started: what is shared counts once."""
        return sum(_memory_bytes(member) for member in self.members())

    def members(self) -> list[psutil.Process]:
        """The program, its descendants, and orphans of the sessions that any of them ever led.

        Ray's daemons and workers have process groups of their own, and become orphans when what started them dies; a
        job's driver has a session of its own.
        """
        if self._is_over:
            return []  # by now the ids may belong to others
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
                with contextlib.suppress(psutil.NoSuchProcess):
                    member.kill()
            assert time.monotonic() < deadline, f"these survive SIGKILL: {members}"
            time.sleep(0.02)
        self.process.wait()
        self._is_over = True

    def _last_words(self) -> str:
        return self.stderr()[-4000:]


Start = Callable[..., Program]
"""(*arguments, env=more variables, script="sam-pipeline") → the running script of the virtual environment."""


@contextmanager
def clean_env(checkpoint: Path) -> Iterator[dict[str, str]]:
    """An environment with the weights, without credentials or clusters of whoever runs the tests."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "AWS_", "SAM_PIPELINE_"))}
    # Not pytest's folder: Ray puts Unix sockets there, and their paths must stay short.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as ray_folder:
        yield env | {
            "SAM_PIPELINE_CACHE": str(checkpoint.parent),
            "RAY_TMPDIR": ray_folder,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),  # else Ray would write one into the home folder
            "RAY_idle_worker_killing_time_threshold_ms": "60000",  # see pipeline/machines/cluster.py
        }


@contextmanager
def starting(common: Mapping[str, str], make_folder: Callable[[], Path]) -> Iterator[Start]:
    """Start programs in an environment; whatever is still running in the end is killed."""
    started: list[Program] = []

    def start_program(
        *arguments: object, env: Mapping[str, str] | None = None, script: str = "sam-pipeline"
    ) -> Program:
        command = [str(SCRIPTS / script), *map(str, arguments)]
        started.append(Program(command, {**common, **(env or {})}, make_folder()))
        return started[-1]

    try:
        yield start_program
    finally:
        for program in started:
            program.kill()


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


def command_line(process: psutil.Process) -> str:
    """Also the title that Ray gives a worker: the task or actor that it runs. Empty for a process that has ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return " ".join(process.cmdline())
    return ""


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


class PeakMemory:
    """The most private memory that processes had at one time while this was entered, looked at fifty times a second.

    Args:
        list_processes: gives the processes to look at, again each time; by default all that this one starts meanwhile.
    """

    def __init__(self, list_processes: Callable[[], Sequence[psutil.Process]] | None = None) -> None:
        before = set(psutil.Process().children(recursive=True))
        self._list = list_processes or (lambda: list(set(psutil.Process().children(recursive=True)) - before))
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.num_bytes = 0

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._is_over.wait(0.02):
            self.num_bytes = max(self.num_bytes, sum(private_bytes(process) for process in self._list()))


def private_bytes(process: psutil.Process) -> int:
    """Memory that it shares with no other process; 0 when it has ended."""
    try:
        memory = process.memory_info()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0
    return int(memory.rss - memory.shared)


def shared_bytes(process: psutil.Process) -> int:
    """Memory that it may share with others, as an object store's daemon does with workers; 0 when it has ended."""
    try:
        return int(process.memory_info().shared)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0
