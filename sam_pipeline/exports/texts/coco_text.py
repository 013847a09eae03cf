"""Images and masks as JSON texts with COCO's keys."""

from __future__ import annotations

import pyarrow as pa

from sam_pipeline.exports.batch import Batch
from sam_pipeline.exports.settings import Bbox
from sam_pipeline.exports.texts.boxes import boxes_xywh
from sam_pipeline.exports.texts.json_text import (
    Texts,
    json_counts,
    json_integers,
    json_lists,
    json_numbers,
    json_objects,
    json_strings,
)

_EXTRA_KEYS = ("predicted_iou", "stability_score", "score", "prompt_id")
"""What COCO does not know. A mask without one goes without the key: datumaro reads score, and refuses null."""


def image_texts(batch: Batch, id_key: str = "id") -> Texts:
    """The images of a batch as COCO's objects, (B,). SA-1B calls their id image_id."""
    fields = {id_key: json_integers(batch.image_ids), "file_name": json_strings(batch.file_names)}
    sizes = {name: json_numbers(batch.images[name].combine_chunks()) for name in ("width", "height")}
    return json_objects(fields | sizes)


def annotation_texts(batch: Batch, segmentation: Texts, bbox: Bbox) -> Texts:
    """The masks of a batch as COCO's objects, (N,).

    Args:
        batch: the masks.
        segmentation: of each, (N,).
        bbox: which boxes.
    """
    masks = batch.masks
    fields = {
        "id": json_integers(batch.annotation_ids),
        "image_id": json_integers(batch.image_ids[batch.row]),
        "category_id": json_integers(batch.category_ids),
        "segmentation": segmentation,
        "bbox": box_texts(masks, bbox),
        "area": json_numbers(masks.field("area")),
        "iscrowd": ["0"],
    }
    return json_objects(fields, {name: masks.field(name) for name in _EXTRA_KEYS})


def rle_texts(masks: pa.StructArray) -> Texts:
    """The RLE of masks, (N,)."""
    rles = masks.field("segmentation")
    sizes = rles.field("size").flatten()
    return json_objects(
        {
            "size": json_lists([json_numbers(sizes[0::2]), json_numbers(sizes[1::2])]),
            "counts": json_counts(rles.field("counts")),
        }
    )


def box_texts(masks: pa.StructArray, which: Bbox) -> Texts:
    """Boxes [x, y, w, h] of pixel counts, (N,)."""
    boxes = boxes_xywh(masks, which)
    is_whole = bool((boxes == boxes.round()).all())
    return json_lists([json_integers(column) if is_whole else json_numbers(pa.array(column)) for column in boxes.T])
