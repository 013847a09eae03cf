"""Showing a run's progress: a live line on a terminal, a plain line or an event every ten seconds elsewhere."""

from __future__ import annotations

import logging
import time
from dataclasses import asdict, dataclass
from datetime import timedelta
from types import TracebackType
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Column

from sam_pipeline.pipeline.monitor import Counts

_PLAIN_INTERVAL_S = 10.0

logger = logging.getLogger(__name__)


class Display(Protocol):
    """What a run reports to."""

    def __enter__(self) -> Display: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def update(self, counts: Counts, num_committed: int) -> None:
        """Show counts of this start, and how many images of the whole plan are committed."""


@dataclass(frozen=True)
class _Figures:
    """What is shown of a run in progress."""

    done: int
    total: int
    rate: float
    """Images a second of this start."""
    masks: int
    errors: int
    committed: int
    """Images of the whole plan."""

    @property
    def eta_s(self) -> float | None:
        """Seconds that the rest takes at this rate."""
        return (self.total - self.done) / self.rate if self.rate else None


class _Meter:
    """Makes figures of what workers have reported.

    Args:
        num_images: planned images.
        num_before: images committed by earlier starts.
    """

    def __init__(self, num_images: int, num_before: int) -> None:
        self._num_images, self._num_before = num_images, num_before
        self._start = time.monotonic()

    def read(self, counts: Counts, num_committed: int) -> _Figures:
        """The figures now."""
        # What is done again after a fault counts twice.
        done = min(max(self._num_before + counts.num_images, num_committed), self._num_images)
        rate = counts.num_images / (time.monotonic() - self._start)
        return _Figures(done, self._num_images, rate, counts.num_masks, counts.num_errors, num_committed)


class EventDisplay:
    """Logs progress as an event, every ten seconds and at the end, for process.events.

    Args:
        num_images: planned images.
        num_before: images committed by earlier starts.
    """

    def __init__(self, num_images: int, num_before: int) -> None:
        self._meter = _Meter(num_images, num_before)
        self._last_event = time.monotonic()
        self._unsaid: _Figures | None = None

    def __enter__(self) -> EventDisplay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._say()

    def update(self, counts: Counts, num_committed: int) -> None:
        """Take counts of this start, and how many images of the whole plan are committed."""
        self._unsaid = self._meter.read(counts, num_committed)
        if time.monotonic() - self._last_event >= _PLAIN_INTERVAL_S:
            self._say()

    def _say(self) -> None:
        if self._unsaid is not None:
            figures = asdict(self._unsaid) | {"eta_s": self._unsaid.eta_s}
            logger.info("progress", extra={"figures": figures})
            self._unsaid, self._last_event = None, time.monotonic()


class RichDisplay:
    """A live progress bar, or plain lines where there is no terminal.

    Args:
        num_images: planned images.
        num_before: images committed by earlier starts.
        console: where to draw; standard error, so that standard output stays for results.
    """

    def __init__(self, num_images: int, num_before: int, console: Console) -> None:
        self._meter, self._console = _Meter(num_images, num_before), console
        self._last_plain = time.monotonic()
        self._progress = Progress(
            TextColumn("images"),
            BarColumn(bar_width=None, table_column=Column(ratio=1)),
            MofNCompleteColumn(),
            TextColumn("{task.fields[details]}"),
            console=console,
            disable=not console.is_terminal,
            expand=True,
        )
        self._task = self._progress.add_task("images", total=num_images, completed=num_before, details="starting")

    def __enter__(self) -> RichDisplay:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def update(self, counts: Counts, num_committed: int) -> None:
        """Show counts of this start, and how many images of the whole plan are committed."""
        now, shown = time.monotonic(), self._meter.read(counts, num_committed)
        details = [f"{shown.rate:.3g}/s", f"{shown.masks} masks"]
        if shown.errors:
            details.append(f"{shown.errors} errors")
        details.append("ETA unknown" if shown.eta_s is None else f"ETA {_time_text(shown.eta_s)}")
        self._progress.update(self._task, completed=shown.done, details=" ".join(details))
        if not self._console.is_terminal and now - self._last_plain >= _PLAIN_INTERVAL_S:
            self._last_plain = now
            details.append(f"{shown.committed} committed")
            self._console.print(f"{shown.done}/{shown.total} images, {', '.join(details)}", soft_wrap=True)


def _time_text(seconds: float) -> str:
    """A time as hours, minutes and seconds; from a day on as days and hours."""
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24} h" if hours >= 24 else str(timedelta(seconds=round(seconds)))
