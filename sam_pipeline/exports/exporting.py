"""Writing a run in another format, part by part; an export that was cut off goes on where it was."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sam_pipeline.errors import ConfigError
from sam_pipeline.exports.file_ids import have_file_ids
from sam_pipeline.exports.format import Format, Job
from sam_pipeline.exports.formats import FORMATS
from sam_pipeline.exports.names import read_names
from sam_pipeline.exports.parts import Position, num_parts, part_images, write_images
from sam_pipeline.exports.places.destination import Destination
from sam_pipeline.exports.places.place import Place
from sam_pipeline.exports.progress import Marker, PartRecord, read_parts, write_part
from sam_pipeline.exports.report import Report
from sam_pipeline.exports.settings import ExportSettings
from sam_pipeline.exports.starting import begin, identity_of
from sam_pipeline.results.categories import read_categories, used_category_ids
from sam_pipeline.results.results import Results
from sam_pipeline.results.review import read_review
from sam_pipeline.storage.layout import check_apart
from sam_pipeline.storage.objects.filesystem import absolute_uri

_SETTINGS_OF_SOME = frozenset({"segmentation", "bbox", "parts", "simplify", "shard_images", "images", "convert_to_rle"})

_SETTINGS_OF_POLYGONS = ("parts", "simplify")

_NOT_FOUND = "the run does not have them, or the selection leaves them out"


@dataclass
class Summary(Report):
    """What an export has written in all."""

    format: str = ""
    dest: str = ""
    root: str = ""
    """What the names of images are relative to."""
    num_planned: int = 0
    """Images of the run."""
    num_missing: int = 0
    """Images among these that the run has not annotated yet."""


def export(
    results: Results,
    dest: str,
    settings: ExportSettings,
    advance: Callable[[int], object] = lambda _: None,
) -> Summary:
    """Write a run in another format.

    Args:
        results: the run, with the selection of masks.
        dest: a folder, local or a URI, that is empty or not there; or that holds the same export, cut off.
        settings: the format, and how it is written.
        advance: is told now and then how many images were done since the last time.

    Raises:
        ConfigError: settings that do not go together; a category without a name.
        OutputError: the destination is not empty, or cannot be written; the run cannot be read.
        StorageUnavailableError: storage did not answer; the same call goes on.
    """
    destination = Destination(absolute_uri(dest), results.storage_options)
    job, marker = start(results, destination, settings)
    done = read_parts(destination)
    position = Position()
    records = []
    for number in range(num_parts(job)):
        record = done.get(number)
        if record is None:
            record = write_images(job, destination, number, position, advance)
            write_part(destination, number, record)
        else:
            advance(record.report.num_images + record.report.images_left_out.total())
        position.advance(record.pieces)
        records.append(record)
    return finish(job, destination, marker, records)


def start(results: Results, destination: Destination, settings: ExportSettings) -> tuple[Job, Marker]:
    """Check everything that can be checked, and claim the destination."""
    form = FORMATS[settings.format]
    _check(destination, settings, form)
    check_apart(destination.uri, results.output, results.storage_options)
    with_file_ids = form.with_file_ids and have_file_ids(results)
    # Beside the file, `object` needs an id that no category of the file has.
    categories = read_categories(results, settings.categories, of_grid=with_file_ids)
    used = used_category_ids(results)
    for category_id in used:
        categories.export_id(category_id)  # raises for one without a name
    review = None if settings.reviewed is None else read_review(settings.reviewed, results.storage_options)
    identity = identity_of(results, settings, categories, review)
    marker = begin(results, destination, identity, part_images(settings), overwrite=settings.overwrite)
    if marker.table_version != results.table.version():
        results = results.at_version(marker.table_version)
    names = read_names(results, split=settings.split, seed=settings.seed, suffixes=form.suffixes)
    with_object = None in used or not categories.names
    job = Job(
        results,
        settings,
        names,
        categories,
        with_object,
        marker.part_images,
        review,
        with_file_ids=with_file_ids,
        kept=frozenset(marker.kept),
    )
    return job, marker


def finish(job: Job, destination: Destination, marker: Marker, records: Sequence[PartRecord]) -> Summary:
    """Write what speaks of the whole, and note that the export is complete.

    Args:
        job: of the export.
        destination: where.
        marker: of the export.
        records: of all parts, in their order.
    """
    form = FORMATS[job.settings.format]
    if form.finish is not None:
        pieces = [piece for record in records for piece in record.pieces]
        form.finish(job, pieces, Place(destination, "finish", job.kept))
    marker.finish(destination)
    if form.temporary is not None:
        destination.remove_own(form.temporary)
    destination.remove_unfinished()
    summary = Summary(
        format=job.settings.format,
        dest=destination.uri,
        root=job.names.root,
        num_planned=job.results.num_images,
        num_missing=job.results.num_images - job.results.num_done,
    )
    for record in records:
        summary.merge(record.report)
    if job.review is not None:
        for what, number in (("images", job.review.num_images), ("masks", job.review.num_masks)):
            num_missing = number - summary.met_of_review[what]
            summary.warn(f"{what} that the review drops were not found: {_NOT_FOUND}", num_missing)
    return summary


def _check(destination: Destination, settings: ExportSettings, form: Format) -> None:
    """Refuse settings that do not go together.

    Raises:
        ConfigError: naming the first.
    """
    if destination.uri.lower().endswith(".json"):
        raise ConfigError(f"{destination.uri}: give a folder, in which {settings.format} writes its files")
    given = settings.by_name()
    default = ExportSettings(format=settings.format).by_name()
    for name in sorted(_SETTINGS_OF_SOME - form.settings):
        if given[name] != default[name]:
            raise ConfigError(f"{settings.format} takes no {name}, got {given[name]!r}")
    if "segmentation" in form.settings and settings.segmentation == "rle":
        for name in _SETTINGS_OF_POLYGONS:
            if given[name] != default[name]:
                raise ConfigError(f"RLE takes no {name}, got {given[name]!r}; give --segmentation polygon")
    if settings.images == "symlink" and not destination.is_local:
        raise ConfigError(f"cannot make links in {destination.uri}: give --images copy")
