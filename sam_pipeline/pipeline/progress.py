"""Showing a run's progress: a live line on a terminal, a plain line every ten seconds elsewhere."""

from __future__ import annotations

import logging
import time
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Column

if TYPE_CHECKING:
    from sam_pipeline.pipeline.monitor import Counts  # Ray, which a bar does without

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


class ImageBar:
    """How many images are done: a live progress bar, or plain lines where there is no terminal.

    Args:
        num_images: of all.
        num_before: images done by earlier starts.
        console: where to draw; standard error, so that standard output stays for results.
    """

    def __init__(self, num_images: int, num_before: int, console: Console) -> None:
        self.num_images, self._num_before, self._console = num_images, num_before, console
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

    def __enter__(self) -> ImageBar:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, num_done: int, *details: str, rate: float | None = None, only_plain: str = "") -> None:
        """Show how far it is.

        Args:
            num_done: images, those of earlier starts among them.
            details: what else to show.
            rate: images a second; by default the mean of this start.
            only_plain: one more detail, for plain lines.
        """
        now = time.monotonic()
        if rate is None:
            rate = (num_done - self._num_before) / max(now - self._start, 1e-9)
        done = min(num_done, self.num_images)
        eta = f"ETA {_time_text((self.num_images - done) / rate)}" if rate else "ETA unknown"
        shown = [f"{rate:.3g}/s", *details, eta]
        self._progress.update(self._task, completed=done, details=" ".join(shown))
        if not self._console.is_terminal and now - self._last_plain >= _PLAIN_INTERVAL_S:
            self._last_plain = now
            shown += [only_plain] if only_plain else []
            self._console.print(f"{done}/{self.num_images} images, {', '.join(shown)}", soft_wrap=True)


class RichDisplay:
    """The progress of a run.

    Args:
        num_images: planned images.
        num_before: images committed by earlier starts.
        console: where to draw; standard error, so that standard output stays for results.
    """

    def __init__(self, num_images: int, num_before: int, console: Console) -> None:
        self._num_before, self._start = num_before, time.monotonic()
        self._bar = ImageBar(num_images, num_before, console)

    def __enter__(self) -> RichDisplay:
        self._bar.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.__exit__(kind, error, trace)

    def update(self, counts: Counts, num_committed: int) -> None:
        """Show counts of this start, and how many images of the whole plan are committed."""
        details = [f"{counts.num_masks} masks"] + ([f"{counts.num_errors} errors"] if counts.num_errors else [])
        self._bar.show(
            max(self._num_before + counts.num_images, num_committed),
            *details,
            rate=counts.num_images / (time.monotonic() - self._start),
            only_plain=f"{num_committed} committed",
        )


def _time_text(seconds: float) -> str:
    """A time as hours, minutes and seconds; from a day on as days and hours."""
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24} h" if hours >= 24 else str(timedelta(seconds=round(seconds)))
