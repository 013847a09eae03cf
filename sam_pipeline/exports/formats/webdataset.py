"""Shards of WebDataset: tar files in which an image and the JSON of its masks lie beside each other."""

from __future__ import annotations

import io
import json
import math
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sam_pipeline.exports.batch import Batch
from sam_pipeline.exports.format import Format, Job, Piece
from sam_pipeline.exports.places.place import Place
from sam_pipeline.exports.places.upright_images import upright_images
from sam_pipeline.exports.report import Report
from sam_pipeline.exports.texts.boxes import boxes_xywh

# So many images have their masks as Python objects at once.
_IMAGES_AT_ONCE = 64


def _write_piece(job: Job, piece: Piece, batches: Iterator[Batch], place: Place, report: Report) -> None:
    names = {category["id"]: category["name"] for category in job.categories.exported(with_object=job.with_object)}
    with (
        place.writing(_name(piece.split, piece.number)) as file,
        tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for batch in batches:
            images = upright_images(job, batch, report)
            for part in batch.slices(_IMAGES_AT_ONCE):
                boxes = boxes_xywh(part.masks, job.settings.bbox).tolist()
                for content in sample_contents(part, names, boxes):
                    image = next(images)
                    if image is None:
                        _leave_out(report, len(content["annotations"]))
                        continue
                    # Not the image's name: WebDataset takes what follows the first dot of a name for a kind of file.
                    key = f"{content['image_id']:09}"
                    _add(tar, f"{key}{image.suffix}", image.data)
                    _add(tar, f"{key}.json", json.dumps(content, allow_nan=False).encode())


def _finish(job: Job, pieces: Sequence[Piece], place: Place) -> None:
    """Write an empty shard for a split without images."""
    for split in set(job.splits) - {piece.split for piece in pieces}:
        with place.writing(_name(split, 0)) as file, tarfile.open(fileobj=file, mode="w"):
            pass


def sample_contents(batch: Batch, names: Mapping[int, str], boxes: Sequence[Sequence[float]]) -> list[dict[str, Any]]:
    """The image and the masks of each row, as COCO names what they have.

    Args:
        batch: of images.
        names: of categories, by their export ids.
        boxes: of all masks.
    """
    annotation_ids, category_ids = batch.annotation_ids.tolist(), batch.category_ids.tolist()
    contents = []
    number = 0
    for image_id, file_name, (image, masks) in zip(
        batch.image_ids.tolist(), batch.file_names, batch.dicts(), strict=True
    ):
        annotations = []
        for mask in masks:
            annotations.append(
                {
                    "id": annotation_ids[number],
                    "category_id": category_ids[number],
                    "category": names[category_ids[number]],
                    "segmentation": mask["segmentation"],
                    "bbox": boxes[number],
                    "area": mask["area"],
                    "iscrowd": 0,
                    **{name: _finite(mask[name]) for name in ("predicted_iou", "stability_score", "score")},
                    "prompt_id": mask["prompt_id"],
                }
            )
            number += 1
        size = {name: image[name] for name in ("width", "height")}
        contents.append({"image_id": image_id, "file_name": file_name, **size, "annotations": annotations})
    return contents


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _leave_out(report: Report, num_masks: int) -> None:
    """Count an image that is gone: a reader expects each sample to have one."""
    report.num_images -= 1
    report.images_left_out["gone or changed"] += 1
    report.leave_out("of images that are gone or changed", num_masks)


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    member.mode = 0o644
    tar.addfile(member, io.BytesIO(content))


def _name(split: str, number: int) -> str:
    return f"{split}/shard-{number:06}.tar" if split else f"shard-{number:06}.tar"


WEBDATASET = Format(_write_piece, _finish, settings=frozenset({"bbox", "shard_images"}), shard_images=1000)
