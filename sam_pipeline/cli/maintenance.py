"""The commands that check an output, or mend it: `verify`, `retry` and `vacuum`."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Annotated, Any

import tyro

from sam_pipeline.cli.flags import NO_OPTIONS, JsonObject, Switch
from sam_pipeline.cli.output.printing import STDERR, print_problem, print_table
from sam_pipeline.config import PlanConfig
from sam_pipeline.config.fingerprint import filter_command
from sam_pipeline.errors import ConfigError
from sam_pipeline.process import events

Output = tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="OUTPUT")]]
"""The folder of a run, as the argument of a command."""


def verify(output: Output, storage_options: JsonObject = NO_OPTIONS) -> int:
    """Check the results: each planned image has one row, each mask decodes and fits its area and bbox.

    Args:
        output: Folder of the run.
        storage_options: Options of fsspec, as for annotate.
    """
    from sam_pipeline.storage.maintenance.verify import verify as run_verify

    uri, options = place(output, storage_options)
    result = run_verify(uri, options)
    rows = {
        "output": output,
        "planned": result.num_planned,
        "rows": result.num_rows,
        "masks": result.num_masks,
        "left": result.num_left,
        "lost": result.num_lost,
        "twice": result.num_twice,
        "unsound": result.num_bad_masks,
    }
    print_table(rows)
    for problem in result.problems:
        print_problem(problem)
    if result.is_repairable:
        again = f"sam-pipeline retry {shlex.quote(output)} --damaged"
        STDERR.print_line(f"to annotate again what is damaged or unsound: {again}, and then annotate")
    elif result.filters and not result.ok and not result.num_left:
        again = filter_command(result.filters[-1], "NEW")
        STDERR.print_line(f"to filter again what is damaged or unsound, into another folder: {again}")
    return 0 if result.ok else 1


def retry(
    output: Output,
    status: Annotated[tuple[str, ...], tyro.conf.arg(metavar="S [S ...]", help_behavior_hint="")] = (),
    damaged: Switch = False,
    storage_options: JsonObject = NO_OPTIONS,
) -> int:
    """Delete rows, so that the next annotate does their images again.

    Args:
        output: Folder of the run.
        status: Rows with these statuses: ok, fetch_error, decode_error, too_large, changed, worker_crashed.
        damaged: What verify finds missing, damaged or unsound. Reads the whole output.
        storage_options: Options of fsspec, as for annotate.
    """
    from sam_pipeline.storage.maintenance.verify import retry_damaged
    from sam_pipeline.storage.tables.results import check_statuses, delete_rows

    uri, options = place(output, storage_options)
    if not status and not damaged:
        raise ConfigError("say which rows to delete: --status S [S ...], --damaged, or both")
    if status:
        check_statuses(status)
    num_rows = retry_damaged(uri, options) if damaged else 0
    if status:
        num_rows += delete_rows(uri, status, options)
    print_table({"output": output, "to do again": num_rows})
    return 0


def vacuum(output: Output, retention_hours: int = 168, storage_options: JsonObject = NO_OPTIONS) -> int:
    """Delete files that no committed version needs: what killed runs left, and what compaction replaced.

    Only files that this program wrote are deleted.

    Args:
        output: Folder of the run.
        retention_hours: Files younger than this are kept, at least 1: for readers that still use an older version.
        storage_options: Options of fsspec, as for annotate.
    """
    from sam_pipeline.storage.maintenance.vacuum import vacuum as run_vacuum

    uri, options = place(output, storage_options)
    done = run_vacuum(uri, retention_hours, options)
    rows: dict[str, object] = {"output": output, "files removed": done.num_removed}
    if done.num_foreign:
        rows["left alone"] = f"{done.num_foreign} files or folders that this program did not write"
    print_table(rows)
    return 0


def place(output: str, storage_options: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """The URI of an output and its storage options, both checked. From here on its run is named in events."""
    from sam_pipeline.storage.objects.filesystem import absolute_uri
    from sam_pipeline.storage.run_ids import run_id

    options = PlanConfig(output=output, storage_options=storage_options).storage_options
    uri = absolute_uri(output)
    events.name(run_id=run_id(uri))
    return uri, options
