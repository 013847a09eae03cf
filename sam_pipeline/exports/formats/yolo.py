"""YOLO's labels: a text file for each image, with a polygon or a box in each row, and data.yaml.

Images belong below images/, their labels lie below labels/ under the same names. Loaders find the one by the other:
they replace the last /images/ of a path by /labels/, and its suffix by .txt.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from sam_pipeline.exports.batch import Batch
from sam_pipeline.exports.format import Format, Job, Piece
from sam_pipeline.exports.places.originals import place_images
from sam_pipeline.exports.places.place import Place
from sam_pipeline.exports.places.upright_images import IMAGE_SUFFIXES, copy_upright
from sam_pipeline.exports.polygons.polygons import mask_polygons
from sam_pipeline.exports.polygons.redrawing import yolo_iou
from sam_pipeline.exports.report import Report
from sam_pipeline.exports.texts.boxes import boxes_xywh
from sam_pipeline.exports.texts.threads import in_threads

# So many images have their masks as Python objects at once.
_IMAGES_AT_ONCE = 16

# A folder of this name in the name of an image would be taken for the one that labels/ stands for.
_IMAGES_FOLDER = re.compile(r"(?<![^/])images(?=/)")


@dataclass
class _Labels:
    """The labels of an image, and what becomes of its masks."""

    rows: list[str]
    ious: list[float]
    """IoU of each mask with its polygons drawn again."""
    num_repeated: int
    """Rows that loaders drop, because an earlier one has the same class and box."""
    num_in_parts: int
    """Masks with more than one row."""
    num_empty: int
    """Masks without a row, because they have no pixel."""


def _write_seg(job: Job, piece: Piece, batches: Iterator[Batch], place: Place, report: Report) -> None:
    _write(job, piece, batches, place, report, is_seg=True)


def _write_box(job: Job, piece: Piece, batches: Iterator[Batch], place: Place, report: Report) -> None:
    _write(job, piece, batches, place, report, is_seg=False)


def _write(job: Job, piece: Piece, batches: Iterator[Batch], place: Place, report: Report, *, is_seg: bool) -> None:
    folder = f"/{piece.split}" if piece.split else ""
    classes = {category["id"]: number for number, category in enumerate(_categories(job))}

    def parts() -> Iterator[Batch]:
        for batch in batches:
            named = replace(batch, stems=[_IMAGES_FOLDER.sub("%69mages", stem) for stem in batch.stems])
            place.announce(f"labels{folder}/{stem}.txt" for stem in named.stems)
            _place_images(job, named, f"images{folder}", place, report)
            yield from named.slices(_IMAGES_AT_ONCE)

    for names, found in in_threads(partial(_labels_of_batch, job, classes, is_seg), parts()):
        place.put_all({f"labels{folder}/{name}.txt": _text(each) for name, each in zip(names, found, strict=True)})
        for each in found:
            report.loss.add(each.ious)
            report.warn(
                "masks have the class and box of an earlier one: ultralytics' loader drops them", each.num_repeated
            )
            report.warn("masks of several parts have a row for each part", each.num_in_parts)
            report.leave_out("without a pixel", each.num_empty)


def _finish(job: Job, pieces: Sequence[Piece], place: Place) -> None:
    train, val = (f"images/{split}" if split else "images" for split in (job.splits[0], job.splits[-1]))
    names = {number: category["name"] for number, category in enumerate(_categories(job))}
    content = {"train": train, "val": val, "nc": len(names), "names": names}
    place.put("data.yaml", yaml.safe_dump(content, sort_keys=False, allow_unicode=True).encode())


def _categories(job: Job) -> list[dict[str, Any]]:
    """The categories whose place is their class: YOLO's classes begin at 0 and have no gap."""
    return job.categories.exported(with_object=job.with_object)


def _text(labels: _Labels) -> bytes:
    return "".join(f"{row}\n" for row in labels.rows).encode()


def _labels_of_batch(
    job: Job, classes: Mapping[int, int], is_seg: bool, batch: Batch
) -> tuple[list[str], list[_Labels]]:
    """The stem and the labels of each image."""
    of_masks = [classes[category_id] for category_id in batch.category_ids.tolist()]
    boxes = boxes_xywh(batch.masks, job.settings.bbox)
    labels = []
    first = 0
    for image, masks in batch.dicts():
        here = slice(first, first + len(masks))
        first += len(masks)
        if is_seg:
            labels.append(_polygon_labels(job, masks, of_masks[here], (image["width"], image["height"])))
        else:
            labels.append(_box_labels(of_masks[here], boxes[here], (image["width"], image["height"])))
    return batch.stems, labels


def _polygon_labels(
    job: Job, masks: Sequence[Mapping[str, Any]], classes: Sequence[int], size: tuple[int, int]
) -> _Labels:
    found = _Labels([], [], 0, 0, 0)
    seen: set[tuple[object, ...]] = set()
    for mask, number in zip(masks, classes, strict=True):
        rle = mask["segmentation"]
        polygons = mask_polygons(rle, parts=job.settings.parts, corners="pixels", simplify=job.settings.simplify)
        shares = [_as_written(polygon / size) for polygon in polygons]
        if not shares:
            found.num_empty += 1
            continue
        for polygon in shares:
            found.rows.append(_row(number, polygon.reshape(-1)))
            box = (number, *polygon.min(axis=0).tolist(), *polygon.max(axis=0).tolist())
            found.num_repeated += box in seen
            seen.add(box)
        found.num_in_parts += len(shares) > 1
        found.ious.append(yolo_iou(rle, shares))
    return found


def _box_labels(classes: Sequence[int], boxes: NDArray[np.float64], size: tuple[int, int]) -> _Labels:
    shares = (boxes + np.concatenate([boxes[:, 2:] / 2, np.zeros_like(boxes[:, 2:])], axis=1)) / (*size, *size)
    rows = [_row(number, share) for number, share in zip(classes, _as_written(shares), strict=True)]
    return _Labels(rows, [], len(rows) - len(set(rows)), 0, 0)


def _as_written(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Six decimals, and never more than the whole: loaders refuse files with such a number."""
    written: NDArray[np.float64] = np.clip(shares, 0, 1).round(6)
    return written


def _row(number: int, shares: NDArray[np.float64]) -> str:
    return " ".join([str(number), *(f"{share:.6f}" for share in shares.tolist())])


def _place_images(job: Job, batch: Batch, folder: str, place: Place, report: Report) -> None:
    """Put images where loaders find their labels by their names; does nothing unless settings.images says so."""
    if job.settings.images == "none":
        report.warn("images are not beside their labels: put them below images/, or use --images", batch.num_images)
        return
    if job.settings.images == "symlink":
        suffixes = [_suffix(name) for name in batch.file_names]
        names = [stem + suffix for stem, suffix in zip(batch.stems, suffixes, strict=True)]
        place_images(job, replace(batch, file_names=names), folder, place, report)
        return
    names = [
        f"{folder}/{stem}{_suffix(file_name)}" for stem, file_name in zip(batch.stems, batch.file_names, strict=True)
    ]
    copy_upright(job, batch, names, place, report, with_suffix=True)


def _suffix(file_name: str) -> str:
    """The suffix of an image's name; empty for a name that has none of an image."""
    suffix = posixpath.splitext(file_name)[1]
    return suffix if suffix.lower() in IMAGE_SUFFIXES else ""


YOLO_SEG = Format(_write_seg, _finish, settings=frozenset({"parts", "simplify", "images"}), suffixes=(".txt",))
YOLO_BOX = Format(_write_box, _finish, settings=frozenset({"bbox", "images"}), suffixes=(".txt",))
