"""What workers report to the driver, beside the data: each image done, and each error that concerns the whole run.

For display and for stopping soon. The tables alone say what is done, so nothing depends on this actor's life: counts
that die with its node are shown no more, and an error that was lost with it comes back with the next image.
"""

from __future__ import annotations

import os
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import ray

from sam_pipeline.errors import SamPipelineError
from sam_pipeline.pipeline.metrics import observe_block
from sam_pipeline.pipeline.workers.device_faults import is_device_lost
from sam_pipeline.safety.clean_text import one_line

_ANSWER_TIMEOUT_S = 5.0

StageName = Literal["read", "encode", "decode", "write"]
"""The stages of the data flow."""


@dataclass
class Counts:
    """Images done in this start, whether committed yet or not."""

    num_by_status: Counter[str] = field(default_factory=Counter)
    num_masks: int = 0

    @property
    def num_images(self) -> int:
        """Images of any status."""
        return self.num_by_status.total()

    @property
    def num_errors(self) -> int:
        """Images with a status other than ok."""
        return self.num_images - self.num_by_status["ok"]


@dataclass
class StageTimes:
    """What a stage has done in this start."""

    num_images: int = 0
    busy_s: float = 0.0
    """Seconds that its workers were busy, added up; waiting for another stage is no part of it."""
    cpu_s: float = 0.0
    """CPU seconds of their processes meanwhile: without waiting for storage."""


@dataclass
class MonitorState:
    """What workers have reported so far."""

    counts: Counts = field(default_factory=Counts)
    stage_times: dict[StageName, StageTimes] = field(default_factory=lambda: defaultdict(StageTimes))
    failure: SamPipelineError | None = None
    """The first error that concerns the run and not one image."""
    last_error: str | None = None
    """The last error of any other kind; the images that it hit are left for the next pass."""


class RunMonitor:
    """The actor that workers report to."""

    def __init__(self) -> None:
        self._state = MonitorState()

    def add(self, num_masks_by_image: list[tuple[str, int]]) -> None:
        """Count images, (status, masks) of each."""
        for status, num_masks in num_masks_by_image:
            self._state.counts.num_by_status[status] += 1
            self._state.counts.num_masks += num_masks

    def add_time(self, stage: StageName, num_images: int, busy_s: float, cpu_s: float) -> None:
        """Count a block that went through a stage, and the seconds that it took there."""
        times = self._state.stage_times[stage]
        times.num_images += num_images
        times.busy_s += busy_s
        times.cpu_s += cpu_s

    def fail(self, error: SamPipelineError) -> None:
        """Take note of an error; later ones are most often its consequences."""
        self._state.failure = self._state.failure or error

    def note(self, error: str) -> None:
        """Take note of an error that may be one image's."""
        self._state.last_error = error

    def read(self) -> MonitorState:
        """All that was reported."""
        return self._state


def start_monitor() -> Any:
    """Start the actor; it takes no CPU away from the run, and comes back should it die."""
    return ray.remote(num_cpus=0, max_restarts=-1)(RunMonitor).remote()


def read_monitor(monitor: Any) -> MonitorState | None:
    """What was reported so far; None when the actor does not answer now, which must not stop a run."""
    try:
        state: MonitorState = ray.get(monitor.read.remote(), timeout=_ANSWER_TIMEOUT_S)
    except (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError):
        return None
    return state


@dataclass(frozen=True)
class BlockStart:
    """The clocks as a worker began with a block of images."""

    at_s: float = field(default_factory=time.perf_counter)
    cpu_s: float = field(default_factory=time.process_time)
    """Of this process."""


def report_time(monitor: Any, run: str, stage: StageName, num_images: int, start: BlockStart) -> None:
    """Report how long a block of images took in a stage, to the driver and to Prometheus.

    Args:
        monitor: see start_monitor.
        run: Job.run_id.
        stage: which.
        num_images: in the block.
        start: of the block.
    """
    busy_s = time.perf_counter() - start.at_s
    monitor.add_time.remote(stage, num_images, busy_s, time.process_time() - start.cpu_s)
    observe_block(run, stage, num_images, busy_s)


@contextmanager
def report_errors(monitor: Any) -> Iterator[None]:
    """Report errors of a worker to the driver: Ray drops the rows of a task that fails, and does not say why.

    Our own errors concern the run, which must stop; the driver raises them.
    """
    try:
        yield
    except SamPipelineError as error:
        ray.get(monitor.fail.remote(error), timeout=_ANSWER_TIMEOUT_S)
        raise
    except Exception as error:
        monitor.note.remote(f"{type(error).__name__}: {one_line(error)}")
        raise


@contextmanager
def report_batch_errors(monitor: Any) -> Iterator[None]:
    """The same around a batch of images; ends this process if its device is lost.

    Ray then starts another one, with a device that works or an error at its start, and the batch is tried again. Left
    alive, the actor would fail every batch immediately, and so take most of them.
    """
    try:
        with report_errors(monitor):
            yield
    except RuntimeError as error:
        if is_device_lost(error):
            read_monitor(monitor)  # by then it has the error too
            os._exit(1)  # as after a crash: from an actor that exits in order Ray would not start another
        raise
