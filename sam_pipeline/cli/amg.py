"""The command `amg`: scripts/amg.py of segment_anything, with its flags and its files."""

from __future__ import annotations

import os
import time
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Annotated

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sam_pipeline.amg.settings import MAX_PIXELS, AmgConfig
from sam_pipeline.cli.flags import flags_of
from sam_pipeline.cli.output.printing import STDERR, print_table
from sam_pipeline.errors import NothingSucceededError

if TYPE_CHECKING:
    from sam_pipeline.amg import run

_PLAIN_INTERVAL_S = 10.0


def amg(config: Annotated[AmgConfig, flags_of(AmgConfig)]) -> int:
    """Write the masks of images as PNGs or JSON, as scripts/amg.py of segment_anything does, without Ray."""
    # OpenCV reads this limit at import. It protects formats that our own reader does not know.
    os.environ["OPENCV_IO_MAX_IMAGE_PIXELS"] = str(MAX_PIXELS)
    from sam_pipeline.amg.targets import describe, list_targets

    listing = list_targets(config.input)
    if listing.others:
        STDERR.print_line(f"left out, not images: {len(listing.others)} ({describe(listing.others)})")
    if not listing.targets:
        raise NothingSucceededError(f"no image in {config.input}")
    for target in listing.renamed:
        STDERR.print_line(
            f"{target.path}: another image has this name without its suffix; masks of this one are named {target.name}"
        )
    from sam_pipeline.amg import run  # torch, for which the above need not wait

    run.prepare_output(listing.targets, config)
    generate = run.load_generator(config)
    start = time.monotonic()
    with _Display(len(listing.targets)) as display:
        done = run.write_masks(listing.targets, config, generate, display.update, STDERR.print_line)
    failed = f" ({done.num_failed} failed)" if done.num_failed else ""
    print_table(
        {
            "output": config.output,
            "images": f"{done.num_images}{failed}",
            "masks": done.num_masks,
            "time": timedelta(seconds=round(time.monotonic() - start)),
        }
    )
    if done.num_failed == done.num_images:
        raise NothingSucceededError("no image could be done")
    return 0


class _Display:
    """A live line on standard error; where that is no terminal, a plain line every ten seconds."""

    def __init__(self, num_images: int) -> None:
        self._num_images = num_images
        self._last_plain = time.monotonic()
        self._bar = Progress(
            TextColumn("images"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[num_masks]} masks, left"),
            TimeRemainingColumn(),
            console=STDERR,
            disable=not STDERR.is_terminal,
        )
        self._task = self._bar.add_task("images", total=num_images, num_masks=0)

    def __enter__(self) -> _Display:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def update(self, done: run.Progress) -> None:
        """Show what is done."""
        self._bar.update(self._task, completed=done.num_images, num_masks=done.num_masks)
        now = time.monotonic()
        if not STDERR.is_terminal and now - self._last_plain >= _PLAIN_INTERVAL_S:
            self._last_plain = now
            STDERR.print_line(f"{done.num_images}/{self._num_images} images, {done.num_masks} masks")
