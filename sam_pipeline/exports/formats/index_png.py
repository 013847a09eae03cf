"""A PNG for each image whose pixels are numbers of masks, and a CSV file that says which mask has which number."""

from __future__ import annotations

import colorsys
import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sam_pipeline.exports.batch import Batch
from sam_pipeline.exports.format import Format, Job, Piece
from sam_pipeline.exports.places.place import Place
from sam_pipeline.exports.report import Report
from sam_pipeline.exports.texts.threads import in_threads
from sam_pipeline.masks.runs import rle

_IMAGES_AT_ONCE = 8
_MOST_IN_PALETTE = 255
_MOST = 65535
# Steps of the golden ratio around the colour circle: neighbours in any list of masks never look alike.
_HUE_STEP = 0.618034

_COLUMNS = ("value", "annotation_id", "category", "area", "visible_area", "predicted_iou", "stability_score", "score")


@dataclass
class _Drawn:
    """The files of an image."""

    png: bytes
    csv: bytes
    num_hidden: int
    """Masks of which no pixel is seen."""
    num_covered: int
    """Masks of which some pixels are covered by others."""
    num_beyond: int
    """Masks for which there is no number left."""


def draw_index(masks: Sequence[Mapping[str, Any]], height: int, width: int) -> NDArray[np.uint16]:
    """The number of the mask that is seen at each pixel, (H, W): 1 for the first of masks, 0 where there is none.

    Masks are drawn in the order of their areas, large ones first, and of equals the first one first; so small masks lie
    above those that hold them.
    """
    index = np.zeros((height, width), np.uint16)
    for number in sorted(range(len(masks)), key=lambda number: -masks[number]["area"]):
        index[rle.decode(masks[number]["segmentation"])] = number + 1
    return index


def _write_piece(job: Job, piece: Piece, batches: Iterator[Batch], place: Place, report: Report) -> None:
    folder = f"{piece.split}/" if piece.split else ""
    names = {category["id"]: category["name"] for category in job.categories.exported(with_object=job.with_object)}

    def parts() -> Iterator[Batch]:
        for batch in batches:
            place.announce(f"{folder}{stem}{suffix}" for stem in batch.stems for suffix in (".png", ".csv"))
            yield from batch.slices(_IMAGES_AT_ONCE)

    for stems, drawn in in_threads(partial(_draw_batch, names), parts()):
        for stem, files in zip(stems, drawn, strict=True):
            place.put_all({f"{folder}{stem}.png": files.png, f"{folder}{stem}.csv": files.csv})
            report.warn("masks are hidden behind smaller ones, and have no pixel", files.num_hidden)
            report.warn("masks are covered in part by smaller ones", files.num_covered)
            report.leave_out(f"more than {_MOST} in an image", files.num_beyond)


def _draw_batch(names: Mapping[int, str], batch: Batch) -> tuple[list[str], list[_Drawn]]:
    drawn = []
    first = 0
    for image, masks in batch.dicts():
        here = slice(first, first + len(masks))
        first += len(masks)
        categories = [names[category_id] for category_id in batch.category_ids[here].tolist()]
        drawn.append(_draw(image, masks, batch.annotation_ids[here].tolist(), categories))
    return batch.stems, drawn


def _draw(
    image: Mapping[str, Any], masks: Sequence[Mapping[str, Any]], ids: Sequence[int], categories: Sequence[str]
) -> _Drawn:
    num_beyond = max(0, len(masks) - _MOST)
    masks = masks[:_MOST]
    index = draw_index(masks, image["height"], image["width"])
    visible = np.bincount(index.reshape(-1), minlength=len(masks) + 1)[1:].tolist()
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for number, mask in enumerate(masks):
        scores = (mask["predicted_iou"], mask["stability_score"], mask["score"])
        writer.writerow((number + 1, ids[number], categories[number], mask["area"], visible[number], *scores))
    # A mask without a pixel is neither.
    num_hidden = sum(seen == 0 < mask["area"] for seen, mask in zip(visible, masks, strict=True))
    num_covered = sum(0 < seen < mask["area"] for seen, mask in zip(visible, masks, strict=True))
    return _Drawn(_png(index, len(masks)), text.getvalue().encode(), num_hidden, num_covered, num_beyond)


def _png(index: NDArray[np.uint16], num_masks: int) -> bytes:
    """8 bits with a palette of colours where that is enough, else 16 bits."""
    buffer = io.BytesIO()
    if num_masks <= _MOST_IN_PALETTE:
        image = Image.fromarray(index.astype(np.uint8))
        image.putpalette(_palette())
    else:
        image = Image.fromarray(index)
    image.save(buffer, "PNG")
    return buffer.getvalue()


@cache
def _palette() -> bytes:
    """Black, and 255 colours."""
    colours = [(0.0, 0.0, 0.0)]
    colours += [colorsys.hsv_to_rgb(number * _HUE_STEP % 1, 0.85, 1.0) for number in range(_MOST_IN_PALETTE)]
    return bytes(round(255 * value) for colour in colours for value in colour)


PNG = Format(_write_piece, suffixes=(".png", ".csv"))
