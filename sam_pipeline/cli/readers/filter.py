"""The command that writes a run with chosen masks of another."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated

import tyro

from sam_pipeline.cli.flags import NO_OPTIONS, JsonObject, flags_of
from sam_pipeline.cli.maintenance import Output, place
from sam_pipeline.cli.output.printing import STDERR, print_table
from sam_pipeline.cli.output.progress import showing_progress
from sam_pipeline.results.selection.mask_selection import MaskSelection

if TYPE_CHECKING:
    from sam_pipeline.results.filtering import Advance, Filtered

logger = logging.getLogger(__name__)


def filter_masks(
    output: Output,
    into: Annotated[str, tyro.conf.arg(metavar="NEW")],
    selection: Annotated[MaskSelection, flags_of(MaskSelection)],
    storage_options: JsonObject = NO_OPTIONS,
) -> int:
    """Write a run with chosen masks of another. Readers take it as any run; annotate, plan and retry refuse it.

    Args:
        output: Folder of the run.
        into: Folder of the new run, empty or not there yet; a path or URI.
        selection: Which masks.
        storage_options: Options of fsspec, as for annotate.
    """
    from sam_pipeline.results.filtering import filter_run
    from sam_pipeline.results.results import Results

    uri, options = place(output, storage_options)
    new, _ = place(into, storage_options)
    source = Results.open(uri, options, selection)
    with ExitStack() as stack:

        def show(begun: Filtered) -> Advance:
            if begun.num_pending:
                logger.warning(
                    "%s is unfinished: %d of its images have no row yet, and are not in %s",
                    output,
                    begun.num_pending,
                    into,
                )
            return stack.enter_context(showing_progress(begun.num_images - begun.num_before, STDERR))

        done = filter_run(source, new, show)
    print_table({"output": into, "filtered from": f"{output}, version {done.version}", **_counts(done)})
    return 0


def _counts(done: Filtered) -> dict[str, object]:
    """Rows of the summary."""
    dropped = {name: count for name, count in done.reading.dropped.items() if count}
    by = ", ".join(f"{count} {name}" for name, count in dropped.items())
    rows: dict[str, object] = {"images": done.num_images}
    if done.num_before:
        rows["done before"] = done.num_before
    if done.num_left_out:
        rows["left out"] = f"{done.num_left_out} by include and exclude"
    if done.num_pending:
        rows["not annotated"] = done.num_pending
    rows["image ids"] = "new, from 0; the URI tells which image is which" if done.is_renumbered else "the same"
    rows["masks kept"] = done.num_masks
    # Masks that earlier starts dropped were not counted.
    rows["dropped now" if done.num_before else "masks dropped"] = f"{sum(dropped.values())} ({by})" if by else 0
    rows["bytes read"] = done.reading.num_bytes
    return rows
