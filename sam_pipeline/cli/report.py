"""The commands that show what a run found: `stats`, `report` and `show`."""

from __future__ import annotations

import json
from typing import Annotated

import tyro

from sam_pipeline.cli.flags import NO_OPTIONS, JsonObject, flags_of
from sam_pipeline.cli.maintenance import Output, place
from sam_pipeline.cli.printing import STDERR, STDOUT
from sam_pipeline.cli.progress import showing_progress
from sam_pipeline.results.mask_selection import MaskSelection

Selection = Annotated[MaskSelection, flags_of(MaskSelection)]
"""Which masks are wanted, as flags of a command."""

Categories = Annotated[str | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")]
Switch = Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help_behavior_hint="")]


def stats(
    output: Output,
    selection: Selection,
    json_: Annotated[Switch, tyro.conf.arg(name="json")] = False,
    categories: Categories = None,
    storage_options: JsonObject = NO_OPTIONS,
) -> int:
    """Print the figures of a run: counts, errors, distributions, and what stricter thresholds would keep.

    Args:
        output: Folder of the run.
        selection: Which masks are wanted.
        json_: Print all figures as one JSON object.
        categories: Names of categories: a COCO file, a data.yaml, or a text file with a name a line. Default: what the
            run's prompts or images were read from.
        storage_options: Options of fsspec, as for annotate.
    """
    from sam_pipeline.cli.statistics_text import statistics_lines
    from sam_pipeline.report.statistics import read_statistics
    from sam_pipeline.results.results import Results

    results = Results.open(*place(output, storage_options), selection)
    with showing_progress(results.num_done, STDERR) as advance:
        found = read_statistics(results, categories=categories, watch=lambda numbers: advance(numbers.rows.num_rows))
    if json_:
        STDOUT.print_line(json.dumps(found.to_dict()))
    else:
        for line in statistics_lines(found, output):
            STDOUT.print_line(line)
    return 0
