"""The command `export`: masks of a run in the formats of others."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import tyro

from sam_pipeline.cli.flags import NO_OPTIONS, JsonObject, Switch, flags_of
from sam_pipeline.cli.maintenance import Output, place
from sam_pipeline.cli.output.printing import STDERR, print_table
from sam_pipeline.exports.settings import ExportSettings
from sam_pipeline.results.selection.mask_selection import MaskSelection

if TYPE_CHECKING:
    from sam_pipeline.exports.exporting import Summary

Dest = tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="DEST")]]


def export(
    output: Output,
    dest: Dest,
    settings: Annotated[ExportSettings, flags_of(ExportSettings)],
    selection: Annotated[MaskSelection, flags_of(MaskSelection)],
    storage_options: JsonObject = NO_OPTIONS,
    on_ray: Switch = False,
) -> int:
    """Write the masks of a run in another format; the same command goes on after a kill.

    Args:
        output: Folder of the run; it may be unfinished.
        dest: Folder to write, local or a URI: an empty one, or none yet.
        settings: See ExportSettings.
        selection: See MaskSelection.
        storage_options: Options of fsspec, as for annotate.
        on_ray: Write many parts at once: on the Ray cluster that RAY_ADDRESS names, or on all CPUs of this machine.
    """
    from sam_pipeline.cli.output.progress import showing_progress
    from sam_pipeline.results.results import Results

    if on_ray:
        from sam_pipeline.pipeline.exporting import export_on_cluster as run_export
    else:
        from sam_pipeline.exports.exporting import export as run_export
    uri, options = place(output, storage_options)
    results = Results.open(uri, options, selection)
    start_s = time.monotonic()
    with showing_progress(results.num_images, STDERR) as advance:
        summary = run_export(results, dest, settings, advance)
    elapsed_s = time.monotonic() - start_s
    timing = f"{timedelta(seconds=round(elapsed_s))} ({summary.num_images / elapsed_s:,.0f} images/s)"
    print_table(summary_rows(summary) | {"time": timing}, _figures(summary) | {"elapsed_s": round(elapsed_s, 3)})
    for text in notes(summary):
        STDERR.print_line(text)
    return 0


def summary_rows(summary: Summary) -> dict[str, object]:
    """What is printed of an export, names and values."""
    rows: dict[str, object] = {
        "destination": summary.dest,
        "format": summary.format,
        "images": _with_reasons(summary.num_images, summary.images_left_out),
        "masks": _with_reasons(summary.num_masks, summary.masks_left_out),
        "names below": summary.root or "no common folder",
    }
    if summary.loss.num_masks:
        rows["IoU redrawn"] = f"mean {summary.loss.mean():.4f}, 5th percentile {summary.loss.percentile(5):.4f}"
    return rows


def _figures(summary: Summary) -> dict[str, object]:
    """The same for programs."""
    figures: dict[str, object] = {
        "dest": summary.dest,
        "format": summary.format,
        "root": summary.root,
        "num_images": summary.num_images,
        "images_left_out": dict(summary.images_left_out),
        "num_masks": summary.num_masks,
        "masks_left_out": dict(summary.masks_left_out),
    }
    if summary.loss.num_masks:
        figures["iou_redrawn"] = {"mean": summary.loss.mean(), "percentile_5": summary.loss.percentile(5)}
    return figures


def notes(summary: Summary) -> list[str]:
    """What the user should know of an export beside its numbers."""
    texts = []
    if summary.num_missing:
        texts.append(
            f"the run is not finished: {summary.num_missing} of its {summary.num_planned} images have no result yet, "
            "and are not in the export"
        )
    if not summary.num_masks:
        texts.append("there are no masks in the export" if summary.num_images else "there are no images in the export")
    texts += [f"{count} {what}" for what, count in sorted(summary.warnings.items())]
    return texts


def _with_reasons(number: int, left_out: Mapping[str, int]) -> str:
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(left_out.items(), key=lambda each: -each[1]))
    return f"{number} (left out: {reasons})" if reasons else str(number)
