"""The commands that show what a run found: `stats`, `report` and `show`."""

from __future__ import annotations

from typing import Annotated

import tyro

from sam_pipeline.cli.flags import NO_OPTIONS, AsJson, JsonObject, Switch, flags_of
from sam_pipeline.cli.maintenance import Output, place
from sam_pipeline.cli.output.printing import STDERR, STDOUT, print_json, print_table
from sam_pipeline.cli.output.progress import showing_progress
from sam_pipeline.process import events
from sam_pipeline.report.settings import NUM_PICTURES, PICTURE_SIZE, check_pictures
from sam_pipeline.results.selection.mask_selection import MaskSelection

Selection = Annotated[MaskSelection, flags_of(MaskSelection)]
"""Which masks are wanted, as flags of a command."""

Dest = tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="DEST")]]
Categories = Annotated[str | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")]


def stats(
    output: Output,
    selection: Selection,
    json_: AsJson = False,
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
    from sam_pipeline.cli.output.statistics_text import statistics_lines
    from sam_pipeline.report.statistics import read_statistics
    from sam_pipeline.results.categories import read_names_to_show
    from sam_pipeline.results.results import Results

    results = Results.open(*place(output, storage_options), selection)
    names = read_names_to_show(results, categories)
    with showing_progress(results.num_done, STDERR) as advance:
        found = read_statistics(results, names, lambda numbers: advance(numbers.rows.num_rows))
    if json_ or events.are_used():
        print_json(found.to_dict())
    else:
        for line in statistics_lines(found, output):
            STDOUT.print_line(line)
    return 0


def report(
    output: Output,
    dest: Dest,
    selection: Selection,
    review: Switch = False,
    gallery: Annotated[int, tyro.conf.arg(metavar="N")] = NUM_PICTURES,
    picture_size: Annotated[int, tyro.conf.arg(metavar="PIXELS")] = PICTURE_SIZE,
    categories: Categories = None,
    overwrite: Switch = False,
    storage_options: JsonObject = NO_OPTIONS,
) -> int:
    """Write a page with the figures of a run, charts and pictures: one HTML file that needs no server and no network.

    Args:
        output: Folder of the run; it may be unfinished.
        dest: The file to write, local or a URI: masks.html.
        selection: Which masks are wanted.
        review: Let images and masks be dropped on the page, which saves the choice for `export --reviewed`.
        gallery: Pictures in the gallery, at most; each takes up to 200 KB, larger ones more.
        picture_size: Longest side of the pictures, in pixels.
        categories: Names of categories: a COCO file, a data.yaml, or a text file with a name a line. Default: what the
            run's prompts or images were read from.
        overwrite: Replace the file if it exists.
        storage_options: Options of fsspec, as for annotate.
    """
    from sam_pipeline.report.report import make_report
    from sam_pipeline.report.writing import NewFile
    from sam_pipeline.results.results import Results

    check_pictures(gallery, picture_size)
    uri, options = place(output, storage_options)
    results = Results.open(uri, options, selection)
    file = NewFile(dest, uri, options, overwrite=overwrite)
    with showing_progress(results.num_done, STDERR) as advance:
        page = make_report(
            results,
            num_pictures=gallery,
            picture_size=picture_size,
            is_review=review,
            categories=categories,
            advance=advance,
        ).encode()
    file.write(page)
    print_table({"report": dest, "size": f"{len(page) / 1e6:.2f} MB"})
    return 0


def show(
    output: Output,
    image: Annotated[str, tyro.conf.arg(metavar="X")],
    to: Annotated[str, tyro.conf.arg(metavar="FILE")],
    selection: Selection,
    categories: Categories = None,
    overwrite: Switch = False,
    storage_options: JsonObject = NO_OPTIONS,
) -> int:
    """Draw one image with its masks, their labels, and the boxes of its prompts.

    Args:
        output: Folder of the run.
        image: Its image_id, or the end of its URI.
        to: The picture to write, local or a URI: .png, .jpg or .webp.
        selection: Which masks are wanted.
        categories: Names of categories: a COCO file, a data.yaml, or a text file with a name a line. Default: what the
            run's prompts or images were read from.
        overwrite: Replace the file if it exists.
        storage_options: Options of fsspec, as for annotate.
    """
    from sam_pipeline.report.showing import draw_image, encoded, find_image, picture_format
    from sam_pipeline.report.writing import NewFile
    from sam_pipeline.results.results import Results

    format_name = picture_format(to)
    uri, options = place(output, storage_options)
    results = Results.open(uri, options, selection)
    file = NewFile(to, uri, options, overwrite=overwrite)
    image_id = find_image(results, image)
    picture, missing = draw_image(results, image_id, categories)
    file.write(encoded(picture, format_name))
    if missing:
        STDERR.print_line(f"image {image_id} cannot be read, so its masks are drawn on grey: {missing}")
    print_table({"image": image_id, "picture": to})
    return 0
