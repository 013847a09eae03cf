"""Writing a run in another format, part by part; an export that was cut off goes on where it was."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import pyarrow as pa
import pyarrow.compute as pc

from sam_pipeline.errors import ConfigError
from sam_pipeline.exports.batch import COLUMNS, Batch, make_batch
from sam_pipeline.exports.destination import Destination
from sam_pipeline.exports.format import Format, Job, Piece
from sam_pipeline.exports.formats import FORMATS
from sam_pipeline.exports.names import read_names
from sam_pipeline.exports.place import Place
from sam_pipeline.exports.progress import Marker, PartRecord, read_parts, write_part
from sam_pipeline.exports.report import Report
from sam_pipeline.exports.settings import ExportSettings
from sam_pipeline.exports.starting import begin
from sam_pipeline.results.categories import read_categories, used_category_ids
from sam_pipeline.results.mask_selection import MaskSelection
from sam_pipeline.results.results import Results
from sam_pipeline.storage.objects.filesystem import absolute_uri
from sam_pipeline.storage.tables.delta_place import Table

PART_IMAGES = 4096
"""Planned images in a part, at least: so many are done again after a kill."""

_SETTINGS_OF_SOME = frozenset({"segmentation", "bbox", "parts", "simplify", "shard_images", "images", "convert_to_rle"})


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
    """Of these, images that the run has not annotated yet."""


@dataclass
class Position:
    """How far the ids and numbers of an export are before a part."""

    annotation_id: int = 1
    piece_numbers: dict[str, int] = field(default_factory=dict)

    def advance(self, record: PartRecord) -> None:
        """Go past a part."""
        for piece in record.pieces:
            self.annotation_id += piece.num_masks
            self.piece_numbers[piece.split] = piece.number + 1


def export(
    results: Results, dest: str, settings: ExportSettings, advance: Callable[[int], object] = lambda _: None
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
    for number in range(num_parts(job)):
        record = done.get(number)
        if record is None:
            record = write_images(job, destination, number, position)
            write_part(destination, number, record)
        position.advance(record)
        done[number] = record
        advance(record.report.num_images + record.report.images_left_out.total())
    return finish(job, destination, marker, [done[number] for number in sorted(done)])


def start(results: Results, destination: Destination, settings: ExportSettings) -> tuple[Job, Marker]:
    """Check everything that can be checked, and claim the destination."""
    form = FORMATS[settings.format]
    given = settings.by_name()
    default = ExportSettings(format=settings.format).by_name()
    for name in sorted(_SETTINGS_OF_SOME - form.settings):
        if given[name] != default[name]:
            raise ConfigError(f"{settings.format} takes no {name}, got {given[name]!r}")
    if settings.images == "symlink" and not destination.is_local:
        raise ConfigError(f"there are no links in {destination.uri}; images can be copied there, with --images copy")
    categories = read_categories(results, settings.categories)
    used = used_category_ids(results)
    for category_id in used:
        categories.export_id(category_id)  # raises for one without a name
    marker = begin(results, destination, settings)
    if marker.table_version != results.table.version():
        table = Table(results.table.uri, results.storage_options, marker.table_version)
        results = replace(results, table=table)
    names = read_names(
        results.select(MaskSelection()), split=settings.split, seed=settings.seed, with_stems=form.with_stems
    )
    with_object = None in used or not categories.names
    return Job(results, settings, names, categories, with_object, frozenset(marker.kept)), marker


def num_parts(job: Job) -> int:
    """How many parts an export has."""
    return math.ceil(job.results.num_images / _part_images(job))


def write_images(job: Job, destination: Destination, number: int, position: Position) -> PartRecord:
    """Write one part.

    Args:
        job: of the export.
        destination: where.
        number: of the part.
        position: what comes before it.
    """
    form = FORMATS[job.settings.format]
    place = Place(destination, f"part-{number:07}", job.kept)
    report, pieces, annotation_id = Report(), [], position.annotation_id
    first_id = number * _part_images(job)
    last_id = first_id + _part_images(job) - 1
    report.merge(_left_out(job, first_id, last_id))
    for split, tables in _by_split(job, first_id, last_id, report):
        piece_number = position.piece_numbers.get(split, 0)
        stream = _Stream(tables)
        while stream.has_more():
            counted = _Counted(job, stream.take(_shard_images(job, form)), annotation_id)
            piece = Piece(split, piece_number)
            form.write_piece(job, piece, iter(counted), place, report)
            pieces.append(replace(piece, num_images=counted.num_images, num_masks=counted.num_masks))
            report.num_images += counted.num_images
            report.num_masks += counted.num_masks
            annotation_id += counted.num_masks
            piece_number += 1
    report.images_left_out, report.masks_left_out = +report.images_left_out, +report.masks_left_out
    return PartRecord(report, tuple(pieces))


def finish(job: Job, destination: Destination, marker: Marker, records: list[PartRecord]) -> Summary:
    """Write what speaks of the whole, and note that the export is complete."""
    form = FORMATS[job.settings.format]
    pieces = [piece for record in records for piece in record.pieces]
    if form.finish is not None:
        form.finish(job, pieces, Place(destination, "finish", job.kept))
    marker.finish(destination)
    if form.temporary is not None:
        destination.remove(destination.names(form.temporary))
    destination.remove_unfinished()
    summary = Summary(format=job.settings.format, dest=destination.uri, root=job.names.root)
    for record in records:
        summary.merge(record.report)
    summary.num_planned = job.results.num_images
    summary.num_missing = job.results.num_images - job.results.num_done
    return summary


def _shard_images(job: Job, form: Format) -> int | None:
    return job.settings.shard_images or form.shard_images


def _part_images(job: Job) -> int:
    """Planned images in a part: enough for some whole shards."""
    shard = _shard_images(job, FORMATS[job.settings.format]) or 1
    return shard * math.ceil(PART_IMAGES / shard)


def _left_out(job: Job, first_id: int, last_id: int) -> Report:
    """Images and masks of a part that no format gets, by reason."""
    report = Report()
    everything = job.results.select(MaskSelection())
    num_stored = num_ok = 0
    for rows in everything.tables(["status", "num_masks"], first_id=first_id, last_id=last_id):
        for entry in rows["status"].value_counts().to_pylist():
            if entry["values"] == "ok":
                num_ok += entry["counts"]
            else:
                report.images_left_out[entry["values"]] += entry["counts"]
        num_stored += pc.sum(rows["num_masks"]).as_py()
    report.images_left_out["not selected"] = num_ok
    report.masks_left_out["not selected"] = num_stored
    return report


def _by_split(job: Job, first_id: int, last_id: int, report: Report) -> Iterator[tuple[str, Iterator[pa.Table]]]:
    """The rows of a part that are exported, by split: the second one is held while the first is written."""
    tables = _wanted(job, first_id, last_id, report)
    if job.settings.split is None:
        yield "", tables
        return
    held: list[pa.Table] = []

    def train() -> Iterator[pa.Table]:
        for rows in tables:
            names = job.names.file_names(rows["uri"].to_pylist())
            is_train = pa.array([job.names.is_train(name) for name in names], pa.bool_())
            held.append(rows.filter(pc.invert(is_train)))
            yield rows.filter(is_train)

    yield "train", train()
    yield "val", iter(held)


def _wanted(job: Job, first_id: int, last_id: int, report: Report) -> Iterator[pa.Table]:
    """The rows of a part that are exported; the rest is counted."""
    is_ok = pc.field("status") == "ok"
    for rows in job.results.tables([*COLUMNS, "num_masks"], is_ok, first_id=first_id, last_id=last_id):
        report.images_left_out["not selected"] -= rows.num_rows
        report.masks_left_out["not selected"] -= pc.sum(rows["num_masks"]).as_py()
        if not job.settings.keep_empty:
            wanted = rows.filter(pc.field("num_masks") > 0)
            report.images_left_out["without masks"] += rows.num_rows - wanted.num_rows
            rows = wanted
        yield rows.drop_columns("num_masks")


class _Stream:
    """Rows that are taken so many at a time; each taking is to be read to its end before the next."""

    def __init__(self, tables: Iterator[pa.Table]) -> None:
        self._tables = tables
        self._head: pa.Table | None = None

    def has_more(self) -> bool:
        """Whether there is a row left."""
        while self._head is None or not self._head.num_rows:
            self._head = next(self._tables, None)
            if self._head is None:
                return False
        return True

    def take(self, num_rows: int | None) -> Iterator[pa.Table]:
        """The next rows; None takes all."""
        left = num_rows
        while (left is None or left > 0) and self.has_more():
            assert self._head is not None
            rows, self._head = (
                self._head.slice(0, left),
                self._head.slice(self._head.num_rows if left is None else left),
            )
            left = None if left is None else left - rows.num_rows
            yield rows


class _Counted:
    """The batches of a piece, and how much was taken of them."""

    def __init__(self, job: Job, tables: Iterator[pa.Table], annotation_id: int) -> None:
        self._job, self._tables, self._annotation_id = job, tables, annotation_id
        self.num_images = self.num_masks = 0

    def __iter__(self) -> Iterator[Batch]:
        for rows in self._tables:
            first_id = self._annotation_id + self.num_masks
            batch = make_batch(rows, self._job.names, self._job.categories, first_id)
            self.num_images += batch.num_images
            self.num_masks += batch.num_masks
            yield batch
