"""What the processes of a run take: CPU by kind of process, and the driver's memory, over time."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.processes import private_bytes, shared_bytes

KINDS = {
    "MapBatches(read_images)": "reading",
    "MapBatches(Encoder)": "encoder",
    "MapBatches(Decoder)": "decoder",
    "MapBatches(write_shard)": "writing",
    "RunMonitor": "monitor",
    "ray::": "other workers",
    "raylet/raylet": "raylet",
    "gcs_server": "gcs",
}
"""Part of a command line → kind of process; the first that fits. Ray puts what a worker does now into its title."""

IDLE = "idle"

_INTERVAL_S = 0.1
_LIST_INTERVAL_S = 1.0
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Sample:
    """What was taken until a moment."""

    time_s: float
    """Of time.monotonic."""
    cpu_s: Counter[str] = field(default_factory=Counter)
    """By kind of process, since their start."""
    memory_bytes: int = 0
    """The driver's private memory at the moment."""
    gcs_bytes: int = 0
    """Private memory of Ray's control service."""
    store_bytes: int = 0
    """Memory of Ray's object stores that was ever written."""


class ProcessWatch:
    """Looks at processes ten times a second, and keeps a sample a second.

    Reading and writing tasks share worker processes. What such a process took since the last look counts for what it
    does now; for what it did before, should it do nothing now.

    Args:
        driver: its process.
        list_processes: gives all processes of the run, again each time.
    """

    def __init__(self, driver: psutil.Process, list_processes: Callable[[], Sequence[psutil.Process]]) -> None:
        self._driver, self._list = driver, list_processes
        self._pids: set[int] = set()
        self._cpu_s: Counter[str] = Counter()
        self._before: dict[int, tuple[float, str]] = {}
        self.samples: list[Sample] = []

    def run(self, is_over: Callable[[], bool]) -> None:
        """Watch until it is over."""
        next_list = 0.0
        while not is_over():
            now = time.monotonic()
            if now >= next_list:
                processes = {process.pid: process for process in self._list()}
                self._pids = set(processes)
                next_list = now + _LIST_INTERVAL_S
                self._look()
                gcs_bytes = sum(map(private_bytes, self._of_kind("gcs", processes)))
                store_bytes = sum(map(shared_bytes, self._of_kind("raylet", processes)))
                driver_bytes = private_bytes(self._driver)
                self.samples.append(Sample(now, self._cpu_s.copy(), driver_bytes, gcs_bytes, store_bytes))
            else:
                self._look()
            time.sleep(_INTERVAL_S)

    def _look(self) -> None:
        for pid in self._pids:
            try:
                cpu_s, kind = _cpu_s(pid), self._kind(pid)
            except (OSError, IndexError, ValueError):
                continue  # it has ended
            cpu_s_before, kind_before = self._before.get(pid, (0.0, IDLE))
            self._before[pid] = cpu_s, kind
            self._cpu_s[kind_before if kind == IDLE else kind] += cpu_s - cpu_s_before

    def _of_kind(self, kind: str, processes: Mapping[int, psutil.Process]) -> list[psutil.Process]:
        return [process for pid, process in processes.items() if self._before.get(pid, (0.0, ""))[1] == kind]

    def _kind(self, pid: int) -> str:
        if pid == self._driver.pid:
            return "driver"
        title = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
        if title.startswith("ray::IDLE"):
            return IDLE
        return next((kind for part, kind in KINDS.items() if part in title), "other")


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
