"""Showing a run's progress: a live line on a terminal, a plain line every ten seconds elsewhere."""

from __future__ import annotations

import logging
import time
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


class RichDisplay:
    """A live progress bar, or plain lines where there is no terminal.

    Args:
        num_images: planned images.
        num_before: images committed by earlier starts.
        console: where to draw; standard error, so that standard output stays for results.
    """

    def __init__(self, num_images: int, num_before: int, console: Console) -> None:
        self._num_images, self._num_before, self._console = num_images, num_before, console
        self._start = time.monotonic()
        self._last_plain = self._start
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
        now = time.monotonic()
        # What is done again after a fault counts twice.
        done = min(max(self._num_before + counts.num_images, num_committed), self._num_images)
        rate = counts.num_images / (now - self._start)
        details = [f"{rate:.3g}/s", f"{counts.num_masks} masks"]
        if counts.num_errors:
            details.append(f"{counts.num_errors} errors")
        details.append(f"ETA {_time_text((self._num_images - done) / rate)}" if rate else "ETA unknown")
        self._progress.update(self._task, completed=done, details=" ".join(details))
        if not self._console.is_terminal and now - self._last_plain >= _PLAIN_INTERVAL_S:
            self._last_plain = now
            details.append(f"{num_committed} committed")
            self._console.print(f"{done}/{self._num_images} images, {', '.join(details)}", soft_wrap=True)


def _time_text(seconds: float) -> str:
    """A time as hours, minutes and seconds; from a day on as days and hours."""
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24} h" if hours >= 24 else str(timedelta(seconds=round(seconds)))
