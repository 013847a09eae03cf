"""COCO's format: images, annotations and categories in one JSON file, or in files of so many images."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import BinaryIO

import pyarrow as pa

from sam_pipeline.exports.batch import Batch
from sam_pipeline.exports.boxes import boxes_xywh
from sam_pipeline.exports.destination import OWN_FOLDER
from sam_pipeline.exports.format import Format, Job, Piece
from sam_pipeline.exports.json_text import (
    integers,
    joined,
    json_ascii,
    json_lists,
    json_numbers,
    json_objects,
    json_strings,
)
from sam_pipeline.exports.originals import place_images
from sam_pipeline.exports.place import Place
from sam_pipeline.exports.report import Report
from sam_pipeline.exports.settings import Bbox
from sam_pipeline.version import __version__

_KINDS = ("images", "annotations")
# Their texts are held at once, in columns of at most 2 GiB.
_IMAGES_AT_ONCE = 256
_Fill = Callable[[BinaryIO], object]


def _write_piece(job: Job, piece: Piece, batches: Iterator[Batch], place: Place, report: Report) -> None:
    with tempfile.TemporaryFile() as images, tempfile.TemporaryFile() as annotations:
        for batch in batches:
            place_images(job, batch, "images", place, report)
            for part in batch.slices(_IMAGES_AT_ONCE):
                _append(images, joined(image_texts(part)))
                _append(annotations, joined(annotation_texts(part, rle_texts(part.masks), job.settings.bbox)))
        fills = [partial(_copy, images), partial(_copy, annotations)]
        if job.settings.shard_images is None:
            for kind, fill in zip(_KINDS, fills, strict=True):
                place.write(_fragment(piece, kind), fill)
        else:
            place.write(_name(piece.split, piece.number), partial(_fill_file, job, fills))


def _finish(job: Job, pieces: Sequence[Piece], place: Place) -> None:
    for split in job.splits:
        of_split = [piece for piece in pieces if piece.split == split]
        if job.settings.shard_images is None:
            fills = [partial(_join, place, [_fragment(piece, kind) for piece in of_split]) for kind in _KINDS]
            place.write(_name(split, None), partial(_fill_file, job, fills))
        elif not of_split:
            place.write(_name(split, 0), partial(_fill_file, job, [_nothing, _nothing]))


def image_texts(batch: Batch) -> pa.Array:
    """The images of a batch as COCO's objects, (B,)."""
    images = batch.images
    return json_objects(
        {
            "id": integers(batch.image_ids),
            "file_name": json_strings(batch.file_names),
            "width": json_numbers(images["width"].combine_chunks()),
            "height": json_numbers(images["height"].combine_chunks()),
        }
    )


def annotation_texts(batch: Batch, segmentation: pa.Array, bbox: Bbox) -> pa.Array:
    """The masks of a batch as COCO's objects, (N,).

    Args:
        batch: the masks.
        segmentation: JSON texts, (N,).
        bbox: which boxes.
    """
    masks = batch.masks
    fields = {
        "id": integers(batch.annotation_ids),
        "image_id": integers(batch.image_ids[batch.row]),
        "category_id": integers(batch.category_ids),
        "segmentation": segmentation,
        "bbox": box_texts(masks, bbox),
        "area": json_numbers(masks.field("area")),
        "iscrowd": integers([0] * batch.num_masks),
    }
    return json_objects(fields | {name: json_numbers(masks.field(name)) for name in _EXTRA})


_EXTRA = ("predicted_iou", "stability_score", "score", "prompt_id")


def rle_texts(masks: pa.StructArray) -> pa.Array:
    """The RLE of masks as JSON objects, (N,)."""
    rles = masks.field("segmentation")
    sizes = rles.field("size").flatten().cast(pa.string())
    return json_objects({"size": json_lists([sizes[0::2], sizes[1::2]]), "counts": json_ascii(rles.field("counts"))})


def box_texts(masks: pa.StructArray, which: Bbox) -> pa.Array:
    """Boxes as JSON lists, (N,)."""
    boxes = boxes_xywh(masks, which)
    is_whole = bool((boxes == boxes.round()).all())
    columns = boxes.astype(int).T if is_whole else boxes.T
    return json_lists([json_numbers(pa.array(column)) for column in columns])


def _append(spool: BinaryIO, texts: bytes) -> None:
    if texts:
        if spool.tell():
            spool.write(b",\n")
        spool.write(texts)


def _fill_file(job: Job, fills: Sequence[_Fill], file: BinaryIO) -> None:
    """Write a whole file of COCO; fills write images and annotations."""
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


def _join(place: Place, fragments: Sequence[str], file: BinaryIO) -> None:
    is_first = True
    for name in fragments:
        texts = place.destination.read(name)
        assert texts is not None, f"{name} was written before its part was noted"
        if texts:
            file.write(b"" if is_first else b",\n")
            file.write(texts)
            is_first = False


def _copy(spool: BinaryIO, file: BinaryIO) -> None:
    spool.seek(0)
    shutil.copyfileobj(spool, file, 1 << 20)


def _nothing(file: BinaryIO) -> None:
    """Write nothing: there are no images."""


def _name(split: str, number: int | None) -> str:
    return f"{split or 'annotations'}{'' if number is None else f'-{number:06}'}.json"


def _fragment(piece: Piece, kind: str) -> str:
    return f"{OWN_FOLDER}/pieces/{piece.split}-{piece.number:07}.{kind}"


def _fragments(piece: Piece) -> list[str]:
    return [_fragment(piece, kind) for kind in _KINDS]


COCO = Format(
    _write_piece,
    _finish,
    settings=frozenset({"segmentation", "bbox", "parts", "simplify", "shard_images", "images"}),
    temporary=_fragments,
)
