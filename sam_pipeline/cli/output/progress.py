"""Progress of commands that read a run: a live line on a terminal, a plain line every ten seconds elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

_PLAIN_INTERVAL_S = 10.0


@contextmanager
def showing_progress(total: int, console: Console) -> Iterator[Callable[[int], None]]:
    """Show how many images are done, as long as the context is open.

    Args:
        total: images.
        console: where to draw; standard error, so that standard output stays for results.

    Yields:
        What is to be called with the number of images that were done since the last call.
    """
    done, start = 0, time.monotonic()
    last_plain = start
    bar = BarColumn(bar_width=None, table_column=Column(ratio=1))
    columns = (
        TextColumn("images"),
        bar,
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal, expand=True, transient=True) as progress:
        task = progress.add_task("images", total=total, rate="")

        def advance(num_images: int) -> None:
            nonlocal done, last_plain
            done += num_images
            now = time.monotonic()
            rate = f"{done / max(now - start, 1e-3):,.0f}/s"
            progress.update(task, completed=min(done, total), rate=rate)
            if not console.is_terminal and now - last_plain >= _PLAIN_INTERVAL_S:
                last_plain = now
                console.print(f"{done}/{total} images, {rate}", soft_wrap=True)

        yield advance
