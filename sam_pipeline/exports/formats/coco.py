"""COCO's format: images, annotations and categories in one JSON file, or in files of so many images."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import BinaryIO

from sam_pipeline.exports.batch import Batch
from sam_pipeline.exports.format import Format, Job, Piece
from sam_pipeline.exports.places.destination import OWN_FOLDER
from sam_pipeline.exports.places.originals import place_images
from sam_pipeline.exports.places.place import Place
from sam_pipeline.exports.polygons.coco_polygons import polygon_texts
from sam_pipeline.exports.report import Report
from sam_pipeline.exports.texts.coco_text import annotation_texts, image_texts, rle_texts
from sam_pipeline.exports.texts.json_text import lines
from sam_pipeline.exports.texts.threads import in_threads
from sam_pipeline.version import __version__

_PIECES = f"{OWN_FOLDER}/pieces"

_Fill = Callable[[BinaryIO], object]


def _write_piece(job: Job, piece: Piece, batches: Iterator[Batch], place: Place, report: Report) -> None:
    texts = in_threads(partial(_texts, job), _with_images(job, batches, place, report))
    images: list[bytes] = []
    if job.settings.shard_images is None:
        for number, (some_images, annotations, ious) in enumerate(texts):
            images.append(some_images)
            report.loss.add(ious)
            place.put(f"{_PIECES}/{piece.split}-{piece.number:07}-{number:05}.annotations", annotations)
        place.put(f"{_PIECES}/{piece.split}-{piece.number:07}.images", b",\n".join(images))
        return
    with place.destination.spool() as spool:
        for some_images, annotations, ious in texts:
            images.append(some_images)
            report.loss.add(ious)
            spool.write(b",\n" if spool.tell() and annotations else b"")
            spool.write(annotations)
        fills: list[_Fill] = [partial(_put, b",\n".join(images)), partial(_copy, spool)]
        place.write(_name(piece.split, piece.number), partial(_fill_file, job, fills))


def _finish(job: Job, pieces: Sequence[Piece], place: Place) -> None:
    if job.settings.shard_images is None:
        written = sorted(place.destination.names(_PIECES))
        for split in job.splits:
            of_split = [name for name in written if name.startswith(f"{_PIECES}/{split}-")]
            fills = [
                partial(place.destination.append, [name for name in of_split if name.endswith(kind)], b",\n")
                for kind in (".images", ".annotations")
            ]
            place.write(_name(split, None), partial(_fill_file, job, fills))
        return
    for split in set(job.splits) - {piece.split for piece in pieces}:
        place.write(_name(split, 0), partial(_fill_file, job, [_nothing, _nothing]))


def _with_images(job: Job, batches: Iterator[Batch], place: Place, report: Report) -> Iterator[Batch]:
    for batch in batches:
        place_images(job, batch, "images", place, report)
        yield batch


def _texts(job: Job, batch: Batch) -> tuple[bytes, bytes, list[float]]:
    """The images and the annotations of a batch, and the IoU of each mask with its polygons drawn again, if it has."""
    segmentation, ious = rle_texts(batch.masks), list[float]()
    if job.settings.segmentation == "polygon":
        segmentation, ious = polygon_texts(batch.masks, job.settings.parts, job.settings.simplify)
    return lines(image_texts(batch)), lines(annotation_texts(batch, segmentation, job.settings.bbox)), ious


def _fill_file(job: Job, fills: Sequence[_Fill], file: BinaryIO) -> None:
    """Write a whole file; fills write its images and its annotations."""
    head = {
        "info": {"description": f"Masks of {job.results.output}, exported by sam-pipeline {__version__}"},
        "licenses": [],
        "categories": job.categories.exported(with_object=job.with_object),
    }
    file.write(json.dumps(head)[:-1].encode())
    file.write(b',\n"images": [')
    fills[0](file)
    file.write(b'],\n"annotations": [')
    fills[1](file)
    file.write(b"]}\n")


def _put(content: bytes, file: BinaryIO) -> None:
    file.write(content)


def _copy(spool: BinaryIO, file: BinaryIO) -> None:
    spool.seek(0)
    shutil.copyfileobj(spool, file, 1 << 20)


def _nothing(file: BinaryIO) -> None:
    """Write nothing: there are no images."""


def _name(split: str, number: int | None) -> str:
    return f"{split or 'annotations'}{'' if number is None else f'-{number:06}'}.json"


COCO = Format(
    _write_piece,
    _finish,
    settings=frozenset({"segmentation", "bbox", "parts", "simplify", "shard_images", "images"}),
    temporary=_PIECES,
)
