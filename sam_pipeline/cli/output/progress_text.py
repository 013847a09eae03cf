"""How far a run has come, as text: what `status` prints."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from sam_pipeline.cli.output.printing import filter_rows, prompt_rows, statuses_text, table_lines
from sam_pipeline.storage.maintenance.progress import Progress
from sam_pipeline.storage.tables.start_records import Start

_UNITS = (("d", 86_400), ("h", 3600), ("min", 60))


def progress_lines(progress: Progress) -> list[str]:
    """Names and values, one pair a line."""
    plan, state = progress.plan, progress.state
    rows: dict[str, object] = {"output": plan.output, "input": plan.input, "images": plan.num_images}
    if state is None:
        return table_lines(rows)
    rows |= filter_rows(state.filters)
    rows |= {"done": f"{progress.num_done} ({statuses_text(state.num_by_status)})", "left": progress.num_left}
    rows |= prompt_rows(progress.num_planned_prompts, state.num_unusable)
    rows |= {"masks": state.num_masks}
    if progress.rate is not None:
        rows |= {"rate": f"{progress.rate:.3f} images/s"}
    if progress.eta_s is not None:
        rows |= {"ETA": timedelta(seconds=round(progress.eta_s))}
    if progress.last_commit_age_s is not None:
        rows |= {"last commit": _last_commit(progress)}
    if state.newest_start is not None:
        rows |= {"last start": _start_text(state.newest_start)}
    rows |= {
        f"unusable {error.kind}" if error.kind in state.num_unusable else error.kind: (
            f"{error.num}, such as {error.example}"
        )
        for error in state.errors
    }
    return table_lines(rows)


def progress_line(progress: Progress) -> str:
    """The same in short, in one line."""
    return ", ".join(_parts(progress))


def _parts(progress: Progress) -> Iterator[str]:
    yield f"{progress.num_done}/{progress.plan.num_images} images"
    if progress.rate is not None:
        yield f"{progress.rate:.3g}/s"
    if progress.state is not None:
        yield f"{progress.state.num_masks} masks"
        if num_errors := progress.num_done - progress.state.num_by_status["ok"]:
            yield f"{num_errors} errors"
    if progress.eta_s is not None:
        yield f"ETA {timedelta(seconds=round(progress.eta_s))}"
    if progress.last_commit_age_s is not None:
        yield _last_commit(progress) if progress.is_stalled else f"last commit {_last_commit(progress)}"


def _last_commit(progress: Progress) -> str:
    age = _duration_text(progress.last_commit_age_s or 0)
    return f"no commit for {age}" if progress.is_stalled else f"{age} ago"


def _start_text(start: Start) -> str:
    assert start.record is not None, "the newest start of which there is a record"
    return f"{start.record.started} by {start.record.user}@{start.record.host}, {start.state}"


def _duration_text(seconds: float) -> str:
    """A time in one unit: 4 s, 12 min, 3 h."""
    for unit, length_s in _UNITS:
        if seconds >= length_s:
            return f"{seconds / length_s:.0f} {unit}"
    return f"{seconds:.0f} s"


class WatchDisplay:
    """Shows looks at a run: the newest in place of the last on a terminal, a line for each elsewhere.

    Args:
        console: where.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._is_live = console.is_terminal and not console.is_dumb_terminal
        self._live = Live(console=console, auto_refresh=False, transient=True)

    def __enter__(self) -> Self:
        if self._is_live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.transient = error is None  # without an error the command prints the last look itself
        self._live.stop()

    def show(self, progress: Progress) -> None:
        """Show a look."""
        if self._is_live:
            text = Text("\n".join(progress_lines(progress)), no_wrap=True, overflow="ellipsis")
            self._live.update(text, refresh=True)
        else:
            self._console.print(progress_line(progress), soft_wrap=True)
