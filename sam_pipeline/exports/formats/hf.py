"""Parquet files that Hugging Face's datasets loads as they are: one row an image, with lists of its masks' fields."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sam_pipeline.exports.batch import Batch
from sam_pipeline.exports.format import Format, Job, Piece
from sam_pipeline.exports.places.place import Place
from sam_pipeline.exports.places.upright_images import UprightImage, upright_images
from sam_pipeline.exports.report import Report
from sam_pipeline.exports.texts.boxes import boxes_xywh

# Rows of a row group: a reader that wants one row has to read them all.
_MOST_IMAGES = 32
_MOST_BYTES = 32 << 20

_RLE = pa.struct([pa.field("size", pa.list_(pa.int32())), pa.field("counts", pa.string())])
_OBJECTS = pa.struct(
    [
        pa.field("id", pa.list_(pa.int64())),
        pa.field("category_id", pa.list_(pa.int64())),
        pa.field("category", pa.list_(pa.int64())),
        pa.field("bbox", pa.list_(pa.list_(pa.float64()))),
        pa.field("area", pa.list_(pa.int64())),
        pa.field("segmentation", pa.list_(_RLE)),
        pa.field("predicted_iou", pa.list_(pa.float32())),
        pa.field("stability_score", pa.list_(pa.float32())),
        pa.field("score", pa.list_(pa.float64())),
    ]
)
_IMAGE = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])
_COLUMNS = [
    pa.field("image_id", pa.int64()),
    pa.field("image", _IMAGE),
    pa.field("file_name", pa.string()),
    pa.field("width", pa.int32()),
    pa.field("height", pa.int32()),
    pa.field("objects", _OBJECTS),
]


def _write_piece(job: Job, piece: Piece, batches: Iterator[Batch], place: Place, report: Report) -> None:
    schema, classes = _schema(job), {category["id"]: number for number, category in enumerate(_categories(job))}
    with place.writing(_name(piece.split, piece.number)) as file, pq.ParquetWriter(file, schema) as writer:
        for batch in batches:
            first = 0
            for images in _groups(upright_images(job, batch, report)):
                writer.write_table(_rows(job, batch.between(first, first + len(images)), schema, classes, images))
                first += len(images)


def _finish(job: Job, pieces: Sequence[Piece], place: Place) -> None:
    """Write an empty file for a split without images."""
    for split in set(job.splits) - {piece.split for piece in pieces}:
        with place.writing(_name(split, 0)) as file:
            pq.write_table(_schema(job).empty_table(), file)


def _groups(images: Iterator[UprightImage | None]) -> Iterator[list[UprightImage | None]]:
    """The images of each row group; the last of them may make it larger."""
    group: list[UprightImage | None] = []
    num_bytes = 0
    for image in images:
        group.append(image)
        num_bytes += 0 if image is None else len(image.data)
        if len(group) == _MOST_IMAGES or num_bytes >= _MOST_BYTES:
            yield group
            group, num_bytes = [], 0
    if group:
        yield group


def _rows(
    job: Job, batch: Batch, schema: pa.Schema, classes: Mapping[int, int], images: Sequence[UprightImage | None]
) -> pa.Table:
    """The rows of a row group.

    Args:
        job: of the export.
        batch: its images.
        schema: of the file.
        classes: by the export id of a category.
        images: of the batch, (B,).
    """
    cells = [
        None if image is None else {"bytes": image.data, "path": name}
        for image, name in zip(images, batch.file_names, strict=True)
    ]
    columns = {
        "image_id": pa.array(batch.image_ids),
        "image": pa.array(cells, _IMAGE),
        "file_name": pa.array(batch.file_names, pa.string()),
        "width": batch.images["width"],
        "height": batch.images["height"],
        "objects": _objects(job, batch, classes),
    }
    return pa.table(columns, schema=schema)


def _objects(job: Job, batch: Batch, classes: Mapping[int, int]) -> pa.StructArray:
    masks = batch.masks
    ends = pa.array(np.concatenate([[0], batch.counts().cumsum()]), pa.int32())
    boxes = boxes_xywh(masks, job.settings.bbox).reshape(-1)
    box_ends = pa.array(np.arange(0, 4 * batch.num_masks + 1, 4), pa.int32())
    values = {
        "id": pa.array(batch.annotation_ids),
        "category_id": pa.array(batch.category_ids),
        "category": pa.array([classes[number] for number in batch.category_ids.tolist()], pa.int64()),
        "bbox": pa.ListArray.from_arrays(box_ends, pa.array(boxes)),
        "area": masks.field("area").cast(pa.int64()),
        **{name: masks.field(name) for name in ("segmentation", "predicted_iou", "stability_score", "score")},
    }
    fields = [_OBJECTS.field(number) for number in range(_OBJECTS.num_fields)]
    lists = [pa.ListArray.from_arrays(ends, values[field.name]).cast(field.type) for field in fields]
    return pa.StructArray.from_arrays(lists, fields=fields)


def _schema(job: Job) -> pa.Schema:
    """The columns, with what datasets is to make of them: its features, as it would have stored them itself."""

    def value(dtype: str) -> dict[str, Any]:
        return {"dtype": dtype, "_type": "Value"}

    def sequence(feature: Any) -> dict[str, Any]:
        return {"feature": feature, "_type": "Sequence"}

    objects = {
        "id": sequence(value("int64")),
        "category_id": sequence(value("int64")),
        "category": sequence({"names": _distinct_names(job), "_type": "ClassLabel"}),
        "bbox": sequence(sequence(value("float64"))),
        "area": sequence(value("int64")),
        "segmentation": [{"size": sequence(value("int32")), "counts": value("string")}],
        "predicted_iou": sequence(value("float32")),
        "stability_score": sequence(value("float32")),
        "score": sequence(value("float64")),
    }
    features = {
        "image_id": value("int64"),
        "image": {"_type": "Image"},
        "file_name": value("string"),
        "width": value("int32"),
        "height": value("int32"),
        "objects": objects,
    }
    return pa.schema(_COLUMNS, metadata={"huggingface": json.dumps({"info": {"features": features}})})


def _categories(job: Job) -> list[dict[str, Any]]:
    return job.categories.exported(with_object=job.with_object)


def _distinct_names(job: Job) -> list[str]:
    """The names of classes; datasets refuses two that are the same, so those have their ids behind them."""
    categories = _categories(job)
    counts = Counter(category["name"] for category in categories)
    return [
        category["name"] if counts[category["name"]] == 1 else f"{category['name']} ({category['id']})"
        for category in categories
    ]


def _name(split: str, number: int) -> str:
    return f"data/{split or 'train'}-{number:06}.parquet"


HF = Format(_write_piece, _finish, settings=frozenset({"bbox", "shard_images"}), shard_images=1000)
