"""What the official scripts/amg.py writes: a folder of PNG masks for each image, or a JSON file with RLE."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from sam_pipeline.exports.batch import Batch
from sam_pipeline.exports.format import Format, Job, Piece
from sam_pipeline.exports.places.place import Place
from sam_pipeline.exports.report import Report
from sam_pipeline.exports.texts.threads import in_threads
from sam_pipeline.masks.runs import rle

METADATA = "metadata.csv"

HEADER = (
    "id,area,bbox_x0,bbox_y0,bbox_w,bbox_h,point_input_x,point_input_y,predicted_iou,stability_score,"
    "crop_box_x0,crop_box_y0,crop_box_w,crop_box_h"
)
_KEYS = ("segmentation", "area", "bbox", "predicted_iou", "point_coords", "stability_score", "crop_box")
# So many images have their masks as Python objects at once.
_IMAGES_AT_ONCE = 16

_Mask = Mapping[str, Any]


def _write_piece(job: Job, piece: Piece, batches: Iterator[Batch], place: Place, report: Report) -> None:
    folder = f"{piece.split}/" if piece.split else ""

    def images() -> Iterator[tuple[str, Sequence[_Mask]]]:
        for batch in batches:
            place.announce(_names(folder, batch, job.settings.convert_to_rle))
            for part in batch.slices(_IMAGES_AT_ONCE):
                for stem, (_, masks) in zip(part.stems, part.dicts(), strict=True):
                    yield f"{folder}{stem}", masks

    def files(image: tuple[str, Sequence[_Mask]]) -> dict[str, bytes]:
        name, masks = image
        if job.settings.convert_to_rle:
            return {f"{name}.json": rle_json(masks).encode()}
        return folder_files(name, masks, (rle.decode(mask["segmentation"]) for mask in masks))

    for written in in_threads(files, images()):
        place.put_all(written)


def rle_json(masks: Sequence[_Mask]) -> str:
    """The masks of an image as the script writes them with --convert-to-rle.

    Args:
        masks: with the fields of masks.records.MaskRecord.to_dict; others are left out. As in the official generator,
            width and height of bbox are differences, one less than pixel counts.
    """
    return json.dumps([{key: _plain(mask[key]) for key in _KEYS} for mask in masks])


def folder_files(folder: str, masks: Sequence[_Mask], pixels: Iterable[npt.NDArray[np.bool_]]) -> dict[str, bytes]:
    """The masks of an image as the script writes them by default: 0.png, 1.png, … and metadata.csv.

    Args:
        folder: of the image.
        masks: as rle_json takes them.
        pixels: each mask, (H, W), one at a time where they would not all fit into memory.

    Returns:
        The content of each file by its name, which begins with the folder.
    """
    files = {f"{folder}/{METADATA}": metadata_csv(masks).encode()}
    return files | {f"{folder}/{number}.png": mask_png(mask) for number, mask in enumerate(pixels)}


def mask_png(pixels: npt.NDArray[np.bool_]) -> bytes:
    """A mask, (H, W), as a PNG of its size: 255 in the mask and 0 beside it."""
    _, content = cv2.imencode(".png", pixels.view(np.uint8) * 255)
    return content.tobytes()


def metadata_csv(masks: Sequence[_Mask]) -> str:
    """One line for each mask. A mask that was prompted with a box alone has no point."""
    rows = [HEADER]
    for number, mask in enumerate(masks):
        point = next(iter(mask["point_coords"] or ()), ("", ""))
        values = (number, mask["area"], *mask["bbox"], *point, mask["predicted_iou"], mask["stability_score"])
        rows.append(",".join(str(value) for value in (*values, *mask["crop_box"])))
    return "\n".join(rows)


def _names(folder: str, batch: Batch, convert_to_rle: bool) -> Iterator[str]:
    for stem, count in zip(batch.stems, batch.counts().tolist(), strict=True):
        if convert_to_rle:
            yield f"{folder}{stem}.json"
        else:
            yield f"{folder}{stem}/{METADATA}"
            yield from (f"{folder}{stem}/{number}.png" for number in range(count))


def _plain(value: object) -> object:
    """A value as JSON has it, which knows no NaN."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


AMG = Format(_write_piece, settings=frozenset({"convert_to_rle"}), part_images=1024, suffixes=("", ".json"))
