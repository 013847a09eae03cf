"""The command `evaluate`: masks of a run against ground truth."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated

import tyro

from sam_pipeline.cli.flags import NO_OPTIONS, JsonObject, flags_of
from sam_pipeline.cli.maintenance import Output, place
from sam_pipeline.cli.output.printing import STDERR, STDOUT, print_json, print_table, statuses_text
from sam_pipeline.errors import ConfigError
from sam_pipeline.evaluation.settings import EvaluationSettings
from sam_pipeline.process import events
from sam_pipeline.results.selection.mask_selection import MaskSelection

if TYPE_CHECKING:
    from sam_pipeline.evaluation.figures import Evaluation

_File = Annotated[str | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")]


def evaluate(
    output: Output,
    settings: Annotated[EvaluationSettings, flags_of(EvaluationSettings)],
    selection: Annotated[MaskSelection, flags_of(MaskSelection)],
    csv: _File = None,
    json: _File = None,
    storage_options: JsonObject = NO_OPTIONS,
) -> int:
    """Compare the masks of a run with ground truth: average precision and recall, and the images that match worst.

    Args:
        output: Folder of the run; it may be unfinished.
        settings: See EvaluationSettings.
        selection: See MaskSelection.
        csv: File to write, with the figures of each image.
        json: File to write, with all figures and the 20 worst images.
        storage_options: Options of fsspec, as for annotate.
    """
    from sam_pipeline.cli.output.progress import showing_progress
    from sam_pipeline.evaluation.evaluate import evaluate as run_evaluate
    from sam_pipeline.evaluation.files import csv_text, json_text
    from sam_pipeline.report.writing import NewFile
    from sam_pipeline.results.results import Results

    uri, options = place(output, storage_options)
    wanted = [(file, text) for file, text in ((csv, csv_text), (json, json_text)) if file is not None]
    files = [(NewFile(file, uri, options), text) for file, text in wanted]
    if len({file.uri for file, _ in files}) < len(files):
        raise ConfigError(f"csv and json are the same file, {csv}: give each a name of its own")
    results = Results.open(uri, options, selection)
    evaluation = run_evaluate(results, settings, lambda num_images: showing_progress(num_images, STDERR))
    if events.are_used():
        print_json(evaluation.by_name())
    else:
        print_table(_summary_rows(evaluation))
        print_figures(evaluation)
        _print_worst(evaluation)
    with ExitStack() as stack:  # one is written also where the other cannot be
        for file, text in reversed(files):
            stack.callback(file.write, text(evaluation).encode())
    return 0


def _summary_rows(evaluation: Evaluation) -> dict[str, object]:
    counts = evaluation.counts
    rows: dict[str, object] = {
        "output": evaluation.output,
        "ground truth": evaluation.ground_truth,
        "images": f"{counts.images.total()} ({statuses_text(counts.images)})",
    }
    if failed := counts.images.total() - counts.images["ok"]:
        rows["without masks"] = f"{failed} images that failed count as images without masks"
    rows |= {
        "only in ground truth": f"{counts.num_only_in_truth} images",
        "only in the run": f"{counts.num_only_in_run} images",
    }
    if counts.num_other_size:
        rows["of another size"] = f"{counts.num_other_size} images, left out"
    crowds = f", and {counts.num_crowds} crowds" if counts.num_crowds else ""
    rows["objects"] = f"{counts.num_objects}{crowds}"
    if counts.num_unusable:
        rows["unusable"] = f"{counts.num_unusable} annotations, left out"
    rows["masks"] = f"{counts.num_masks}, ranked by {evaluation.rank_by}"
    if counts.num_other_category:
        rows["other categories"] = f"{counts.num_other_category} masks, left out"
    rows["categories"] = "not compared" if evaluation.class_agnostic else f"{len(evaluation.by_category)} with objects"
    return rows


def print_figures(evaluation: Evaluation) -> None:
    """Print a table of figures: a row for each, a column for each kind of IoU."""
    kinds = list(evaluation.figures)
    STDOUT.print_line("")
    STDOUT.print_line(f"{'':<16}" + "".join(f"{kind:>10}" for kind in kinds))
    for name in next(iter(evaluation.figures.values())):
        values = (evaluation.figures[kind][name] for kind in kinds)
        cells = "".join(f"{'-' if value is None else format(value, '.4f'):>10}" for value in values)
        STDOUT.print_line(f"{name:<16}{cells}")


def _print_worst(evaluation: Evaluation) -> None:
    worst = evaluation.worst_images()
    if not worst:
        return
    STDOUT.print_line("")
    STDOUT.print_line("worst images: mean best IoU, objects found at IoU 0.5, masks")
    for each in worst:
        matches = next(iter(each.matches.values()))
        found = f"{matches.num_found[0]}/{matches.num_objects}"
        STDOUT.print_line(f"{matches.mean_best_iou:.4f}  {found:>9}  {each.num_masks:>5}  {each.image.uri}")
