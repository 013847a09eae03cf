"""The format of the SA-1B dataset: a JSON file for each image, NAME.json for NAME.jpg."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from sam_pipeline.exports.batch import Batch
from sam_pipeline.exports.format import Format, Job, Piece
from sam_pipeline.exports.places.originals import place_images
from sam_pipeline.exports.places.place import Place
from sam_pipeline.exports.report import Report
from sam_pipeline.exports.settings import Bbox
from sam_pipeline.exports.texts.coco_text import box_texts, image_texts, rle_texts
from sam_pipeline.exports.texts.json_text import (
    Texts,
    json_integers,
    json_lists,
    json_numbers,
    json_objects,
    rows_of,
)
from sam_pipeline.exports.texts.threads import in_threads


def _write_piece(job: Job, piece: Piece, batches: Iterator[Batch], place: Place, report: Report) -> None:
    folder = f"{piece.split}/" if piece.split else ""

    def with_images() -> Iterator[Batch]:
        for batch in batches:
            place.announce(f"{folder}{stem}.json" for stem in batch.stems)
            place_images(job, batch, piece.split, place, report)
            yield batch

    def files(batch: Batch) -> dict[str, bytes]:
        texts = file_texts(batch, job.settings.bbox)
        return {f"{folder}{stem}.json": text.encode() for stem, text in zip(batch.stems, texts, strict=True)}

    for written in in_threads(files, with_images()):
        place.put_all(written)


def file_texts(batch: Batch, bbox: Bbox) -> list[str]:
    """The content of each image's file, (B,)."""
    annotations = rows_of(annotation_texts(batch, bbox))
    ends = pa.array([0, *batch.counts().cumsum().tolist()], pa.int32())
    of_image = pc.binary_join(pa.ListArray.from_arrays(ends, annotations), ", ")
    images = rows_of(image_texts(batch, "image_id"))
    texts: list[str] = rows_of(['{"image": ', images, ', "annotations": [', of_image, "]}"]).to_pylist()
    return texts


def annotation_texts(batch: Batch, bbox: Bbox) -> Texts:
    """The masks of a batch as SA-1B's objects, (N,)."""
    masks = batch.masks
    return json_objects(
        {
            "id": json_integers(batch.annotation_ids),
            "segmentation": rle_texts(masks),
            "bbox": box_texts(masks, bbox),
            "area": json_numbers(masks.field("area")),
            "predicted_iou": json_numbers(masks.field("predicted_iou")),
            "stability_score": json_numbers(masks.field("stability_score")),
            "crop_box": _crop_boxes(masks.field("crop_box")),
            "point_coords": _points(masks.field("point_coords")),
        }
    )


def _crop_boxes(boxes: pa.ListArray) -> Texts:
    values = boxes.flatten()
    return json_lists([json_numbers(values[place::4]) for place in range(4)])


def _points(points: pa.ListArray) -> Texts:
    """[[x, y], …] of each mask; an empty list for a mask that was prompted with a box."""
    values = points.flatten().flatten()
    pairs = rows_of(json_lists([json_numbers(values[0::2]), json_numbers(values[1::2])]))
    lengths = pc.fill_null(pc.list_value_length(points), 0).to_numpy()
    ends = pa.array([0, *lengths.cumsum().tolist()], pa.int32())
    return ["[", pc.binary_join(pa.ListArray.from_arrays(ends, pairs), ", "), "]"]


SA1B = Format(_write_piece, settings=frozenset({"bbox", "images"}), suffixes=(".json",))
