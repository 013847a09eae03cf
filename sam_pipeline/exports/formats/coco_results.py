"""COCO's format of results: a JSON list of masks with scores, as pycocotools' loadRes and its like read it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import partial
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc

from sam_pipeline.exports.batch import Batch
from sam_pipeline.exports.format import Format, Job, Piece
from sam_pipeline.exports.places.destination import OWN_FOLDER
from sam_pipeline.exports.places.place import Place
from sam_pipeline.exports.report import Report
from sam_pipeline.exports.texts.coco_text import rle_texts
from sam_pipeline.exports.texts.json_text import Texts, json_integers, json_numbers, json_objects, lines
from sam_pipeline.exports.texts.threads import in_threads
from sam_pipeline.storage.inputs.lists.coco import coco_image_id

_PIECES = f"{OWN_FOLDER}/pieces"


def _write_piece(job: Job, piece: Piece, batches: Iterator[Batch], place: Place, report: Report) -> None:
    for number, texts in enumerate(in_threads(partial(_text, job), batches)):
        place.put(f"{_PIECES}/{piece.split}-{piece.number:07}-{number:05}", texts)


def _finish(job: Job, pieces: Sequence[Piece], place: Place) -> None:
    written = sorted(place.destination.names(_PIECES))
    for split in job.splits:
        of_split = [name for name in written if name.startswith(f"{_PIECES}/{split}-")]
        place.write(f"{split or 'results'}.json", partial(_fill, place, of_split))


def _fill(place: Place, names: Sequence[str], file: BinaryIO) -> None:
    file.write(b"[")
    place.destination.append(names, b",\n", file)
    file.write(b"]\n")


def _text(job: Job, batch: Batch) -> bytes:
    return lines(result_texts(batch, job.categories.shift if job.with_file_ids else None))


def result_texts(batch: Batch, shift: int | None) -> Texts:
    """The masks of a batch as results, (N,).

    They have no bbox: loadRes would take the file for one of boxes, and the area of a mask for that of its box. The
    score is the detector's, or the predicted IoU of a mask without one, so that it is always a number.

    Args:
        batch: the masks.
        shift: how much more the ids of categories in exports are than those of the COCO file that the images came from,
            if images and categories are to have the ids of that file.
    """
    masks = batch.masks
    if shift is None:
        image_ids, category_ids = json_integers(batch.image_ids[batch.row]), batch.category_ids
    else:
        image_ids, category_ids = _image_ids(batch), batch.category_ids - shift
    return json_objects(
        {
            "image_id": image_ids,
            "category_id": json_integers(category_ids),
            "segmentation": rle_texts(masks),
            "score": json_numbers(_scores(masks)),
        }
    )


def _image_ids(batch: Batch) -> Texts:
    """The ids of the COCO file that the images came from, of each mask, (N,): text, or numbers of any size."""
    ids = [json.dumps(coco_image_id(extra)) for extra in batch.images["extra"].to_pylist()]
    return [pa.array(ids, pa.string()).take(pa.array(batch.row))]


def _scores(masks: pa.StructArray) -> pa.Array:
    score, predicted_iou = (masks.field(name).cast(pa.float64()) for name in ("score", "predicted_iou"))
    finite = [pc.if_else(pc.is_finite(each), each, None) for each in (score, predicted_iou)]
    return pc.coalesce(*finite, pa.scalar(0.0))


COCO_RESULTS = Format(_write_piece, _finish, with_file_ids=True, temporary=_PIECES)
