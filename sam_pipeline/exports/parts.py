"""One part of an export: images whose ids follow each other, written in one go."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import pyarrow as pa
import pyarrow.compute as pc

from sam_pipeline.exports.batch import COLUMNS, Batch, make_batch
from sam_pipeline.exports.format import Job, Piece
from sam_pipeline.exports.formats import FORMATS
from sam_pipeline.exports.places.destination import Destination
from sam_pipeline.exports.places.place import Place
from sam_pipeline.exports.progress import PartRecord
from sam_pipeline.exports.report import Report
from sam_pipeline.exports.settings import ExportSettings
from sam_pipeline.results.row_groups import Reading
from sam_pipeline.results.selection.mask_selection import MaskSelection
from sam_pipeline.storage.tables.row_slices import slices

# Limits of a batch. Progress is shown after each. Several are in memory at once, each with what a format makes of it,
# which is a few times as large.
_BATCH_IMAGES = 256
_BATCH_BYTES = 8 << 20
_NOT_SELECTED = "not selected"
_DROPPED = "dropped in the review"
_READ = (*COLUMNS, "num_masks")
_COUNTED = ("uri", "num_masks")


@dataclass
class Position:
    """How far the ids and numbers of an export are before a part."""

    annotation_id: int = 1
    piece_numbers: dict[str, int] = field(default_factory=dict)

    def advance(self, pieces: Sequence[Piece]) -> None:
        """Go past the pieces of a part."""
        for piece in pieces:
            self.annotation_id += piece.num_masks
            self.piece_numbers[piece.split] = self.piece_numbers.get(piece.split, 0) + 1

    def copy(self) -> Position:
        """Another one at the same place."""
        return Position(self.annotation_id, dict(self.piece_numbers))


def part_images(settings: ExportSettings) -> int:
    """Planned images in a part of a new export: enough for some whole shards."""
    shard = _shard_images(settings) or 1
    return shard * math.ceil(FORMATS[settings.format].part_images / shard)


def num_parts(job: Job) -> int:
    """How many parts an export has."""
    return math.ceil(job.results.num_images / job.part_images)


def write_images(
    job: Job,
    destination: Destination,
    number: int,
    position: Position,
    advance: Callable[[int], object] = lambda _: None,
) -> PartRecord:
    """Write one part.

    Args:
        job: of the export.
        destination: where.
        number: of the part.
        position: what comes before it; it stays as it is.
        advance: is told now and then how many images were done since the last time.
    """
    write_piece = FORMATS[job.settings.format].write_piece
    place = Place(destination, f"part-{number:07}", job.kept)
    report, pieces, position = Report(), [], position.copy()
    report.merge(_left_out(job, number))
    for split, stream in _by_split(job, number, _READ, report):
        while stream.has_more():
            counted = _Counted(job, stream.take(_shard_images(job.settings)), position.annotation_id, advance)
            piece = Piece(split, position.piece_numbers.get(split, 0))
            write_piece(job, piece, iter(counted), place, report)
            pieces.append(replace(piece, num_images=counted.num_images, num_masks=counted.num_masks))
            position.advance(pieces[-1:])
            report.num_images += counted.num_images
            report.num_masks += counted.num_masks
    advance(report.images_left_out.total())
    report.images_left_out, report.masks_left_out = +report.images_left_out, +report.masks_left_out
    return PartRecord(report, tuple(pieces))


def count_images(job: Job, number: int) -> tuple[Piece, ...]:
    """The pieces that a part will have, numbered from 0, from small columns: what later parts begin after."""
    pieces = []
    position = Position()
    for split, stream in _by_split(job, number, _COUNTED if job.review is None else _READ, Report()):
        while stream.has_more():
            counts = [(rows.num_rows, _num_masks(rows)) for rows in stream.take(_shard_images(job.settings))]
            num_images, num_masks = (sum(count) for count in zip(*counts, strict=True))
            pieces.append(Piece(split, position.piece_numbers.get(split, 0), num_images, num_masks))
            position.advance(pieces[-1:])
    return tuple(pieces)


def _shard_images(settings: ExportSettings) -> int | None:
    return settings.shard_images or FORMATS[settings.format].shard_images


def _ids(job: Job, number: int) -> tuple[int, int]:
    """The first and the last id of a part."""
    first_id = number * job.part_images
    return first_id, first_id + job.part_images - 1


def _left_out(job: Job, number: int) -> Report:
    """All images of a part as left out, by reason; what is exported is taken off later."""
    report = Report()
    first_id, last_id = _ids(job, number)
    everything = job.results.select(MaskSelection())
    for rows in everything.tables(["status"], first_id=first_id, last_id=last_id):
        for entry in rows["status"].value_counts().to_pylist():
            reason = _NOT_SELECTED if entry["values"] == "ok" else entry["values"]
            report.images_left_out[reason] += entry["counts"]
    return report


def _by_split(job: Job, number: int, columns: Sequence[str], report: Report) -> Iterator[tuple[str, _Stream]]:
    """The rows of a part that are exported, by split; a part is read once for each, because val may be large."""
    for split in job.splits:
        # What is left out is counted once.
        counted = report if split == job.splits[0] else Report()
        yield split, _Stream(_of_split(job, split, _wanted(job, number, columns, counted)))


def _of_split(job: Job, split: str, tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Those rows that belong to train, or to val; all of them where nothing is divided."""
    for rows in tables:
        if not split:
            yield rows
            continue
        names = job.names.file_names(rows["uri"].to_pylist())
        yield rows.filter(pa.array([job.names.is_train(name) == (split == "train") for name in names], pa.bool_()))


def _wanted(job: Job, number: int, columns: Sequence[str], report: Report) -> Iterator[pa.Table]:
    """The rows of a part that are exported, num_masks among their columns; the rest is counted."""
    first_id, last_id = _ids(job, number)
    is_ok, reading = pc.field("status") == "ok", Reading()
    for rows in job.results.tables(columns, is_ok, first_id=first_id, last_id=last_id, reading=reading):
        report.images_left_out[_NOT_SELECTED] -= rows.num_rows
        if job.review is not None:
            reviewed = job.review.apply(rows)
            report.images_left_out[_DROPPED] += reviewed.num_images
            report.masks_left_out[_DROPPED] += _num_masks(rows) - _num_masks(reviewed.rows)
            report.met_of_review.update(images=reviewed.num_images, masks=reviewed.num_masks)
            rows = reviewed.rows
        if not job.settings.keep_empty:
            wanted = rows.filter(pc.field("num_masks") > 0)
            report.images_left_out["without masks"] += rows.num_rows - wanted.num_rows
            rows = wanted
        yield rows
    report.masks_left_out.update(reading.dropped)


def _num_masks(rows: pa.Table) -> int:
    return int(pc.sum(rows["num_masks"]).as_py() or 0)


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
            rows = self._head.slice(0, left)
            self._head = self._head.slice(rows.num_rows)
            left = None if left is None else left - rows.num_rows
            yield rows


class _Counted:
    """The batches of a piece, and how much was taken of them."""

    def __init__(
        self, job: Job, tables: Iterator[pa.Table], annotation_id: int, advance: Callable[[int], object]
    ) -> None:
        self._job, self._tables, self._annotation_id, self._advance = job, tables, annotation_id, advance
        self.num_images = self.num_masks = 0

    def __iter__(self) -> Iterator[Batch]:
        for rows in self._tables:
            for some in slices(rows.select(COLUMNS), _BATCH_IMAGES, _BATCH_BYTES):
                first_id = self._annotation_id + self.num_masks
                batch = make_batch(some, self._job.names, self._job.categories, first_id)
                self.num_images += batch.num_images
                self.num_masks += batch.num_masks
                yield batch
                self._advance(batch.num_images)
