"""The commands that tell how a run gets on, and what was computed where: `status` and `runs`."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from sam_pipeline.cli.flags import NO_OPTIONS, AsJson, JsonObject, Switch
from sam_pipeline.cli.maintenance import Output, place
from sam_pipeline.cli.output.printing import STDOUT, column_lines, print_json
from sam_pipeline.errors import StorageUnavailableError
from sam_pipeline.process import events

if TYPE_CHECKING:
    from sam_pipeline.storage.maintenance.progress import Progress
    from sam_pipeline.storage.maintenance.watching import RunWatch

_INTERVAL_S = 5.0

logger = logging.getLogger(__name__)


def status(
    output: Output, watch: Switch = False, json_: AsJson = False, storage_options: JsonObject = NO_OPTIONS
) -> int:
    """Show how far a run has come, from storage alone; works from any machine while it runs.

    Args:
        output: Folder of the run.
        watch: Look again every five seconds, until no image is left.
        json_: Print one JSON object; with --watch one for each look, each on its line.
        storage_options: Options of fsspec, as for annotate.
    """
    from sam_pipeline.cli.output.progress_text import WatchDisplay, progress_lines
    from sam_pipeline.storage.maintenance.watching import RunWatch

    run = RunWatch(*place(output, storage_options))
    looks = _looks(run) if watch else iter([run.look()])
    if json_ or events.are_used():
        for progress in looks:
            print_json(progress.to_dict())
        return 0
    if watch:
        with WatchDisplay(STDOUT) as display:
            for progress in looks:
                display.show(progress)
    else:
        (progress,) = looks
    for line in progress_lines(progress):
        STDOUT.print_line(line)
    return 0


def runs(output: Output, json_: AsJson = False, storage_options: JsonObject = NO_OPTIONS) -> int:
    """List the starts of a run: who annotated when, where and with what, how it ended, and its CPU and GPU hours.

    Args:
        output: Folder of the run.
        json_: Print one JSON object for each start, each on its line.
        storage_options: Options of fsspec, as for annotate.
    """
    from sam_pipeline.cli.output.starts_text import starts_rows
    from sam_pipeline.storage.run_ids import run_id
    from sam_pipeline.storage.tables.results import open_results
    from sam_pipeline.storage.tables.start_records import read_starts

    uri, options = place(output, storage_options)
    starts = read_starts(open_results(uri, options))
    if json_ or events.are_used():
        for start in starts:
            print_json({"run_id": run_id(uri)} | start.to_dict())
    else:
        for line in column_lines(starts_rows(starts)):
            STDOUT.print_line(line)
    return 0


def _looks(run: RunWatch) -> Iterator[Progress]:
    """Looks at a run, until one finds no image left. Storage that does not answer ends the first look, but no other."""
    progress = run.look()
    while progress.num_left:
        yield progress
        progress = _next_look(run)
    yield progress


def _next_look(run: RunWatch) -> Progress:
    while True:
        time.sleep(_INTERVAL_S)
        try:
            return run.look()
        except StorageUnavailableError as error:
            logger.warning("%s", error)
