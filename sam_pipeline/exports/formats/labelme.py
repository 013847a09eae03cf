"""labelme's JSON files, one for each image: a mask is a small PNG, and its place in the image."""

from __future__ import annotations

import base64
import io
import json
import os
import posixpath
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from sam_pipeline.exports.batch import Batch
from sam_pipeline.exports.format import Format, Job, Piece
from sam_pipeline.exports.places.originals import originals, place_images
from sam_pipeline.exports.places.place import Place
from sam_pipeline.exports.report import Report
from sam_pipeline.exports.texts.threads import in_threads
from sam_pipeline.masks.runs import rle
from sam_pipeline.safety.uri_rules import local_path

_IMAGES_AT_ONCE = 16
# labelme's version; it warns of a file of another major version, and reads it.
_VERSION = "6.0.0"


def _write_piece(job: Job, piece: Piece, batches: Iterator[Batch], place: Place, report: Report) -> None:
    folder = f"{piece.split}/" if piece.split else ""
    labels = {category["id"]: category["name"] for category in job.categories.exported(with_object=job.with_object)}

    def parts() -> Iterator[tuple[Batch, Mapping[int, str]]]:
        for batch in batches:
            place.announce(f"{folder}{stem}.json" for stem in batch.stems)
            place_images(job, batch, piece.split, place, report)
            paths = _original_paths(job, batch, place)
            yield from ((some, paths) for some in batch.slices(_IMAGES_AT_ONCE))

    for files, num_empty in in_threads(partial(_files, folder, labels, place), parts()):
        place.put_all(files)
        report.leave_out("without a pixel", num_empty)


def _original_paths(job: Job, batch: Batch, place: Place) -> dict[int, str]:
    """Files of this machine that are images of a batch, by image_id; nothing where copies lie beside the masks."""
    if job.settings.images != "none" or not place.is_local:
        return {}
    image_ids = batch.images["image_id"].to_pylist()
    found = zip(image_ids, originals(job, batch), strict=True)
    return {image_id: original.path for image_id, original in found if original.path is not None}


def _files(
    folder: str, labels: Mapping[int, str], place: Place, part: tuple[Batch, Mapping[int, str]]
) -> tuple[dict[str, bytes], int]:
    """The file of each image by its name, and how many masks have no pixel.

    Args:
        folder: of the files, with a slash at its end, or empty.
        labels: names of categories, by their export ids.
        place: where the piece is written.
        part: some images, and the paths of those that are files of this machine, by image_id.
    """
    batch, paths = part
    files: dict[str, bytes] = {}
    num_shapes = first = 0
    for (image, masks), file_name, stem in zip(batch.dicts(), batch.file_names, batch.stems, strict=True):
        of_masks = [labels[category_id] for category_id in batch.category_ids[first : first + len(masks)].tolist()]
        first += len(masks)
        name = f"{folder}{stem}.json"
        original = paths.get(image["image_id"])
        shapes = [_shape(mask, label) for mask, label in zip(masks, of_masks, strict=True) if mask["area"]]
        num_shapes += len(shapes)
        content = {
            "version": _VERSION,
            "flags": {},
            "shapes": shapes,
            "imagePath": _image_path(original, name, f"{folder}{file_name}", place),
            "imageData": None,
            "imageHeight": image["height"],
            "imageWidth": image["width"],
        }
        files[name] = json.dumps(content, ensure_ascii=True, indent=1).encode()
    return files, batch.num_masks - num_shapes


def _shape(mask: Mapping[str, Any], label: str) -> dict[str, Any]:
    """A mask as labelme has it: points are the first and the last pixel of its box, the PNG is what is in the box."""
    x, y, w, h = mask["bbox"]
    pixels = rle.decode(mask["segmentation"])[y : y + h + 1, x : x + w + 1]
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8) * 255).save(buffer, "PNG")
    return {
        "label": label,
        "points": [[x, y], [x + w, y + h]],
        "group_id": None,
        "description": "",
        "shape_type": "mask",
        "flags": {},
        "mask": base64.b64encode(buffer.getvalue()).decode("ascii"),
    }


def _image_path(original: str | None, name: str, copy: str, place: Place) -> str:
    """Where the image is, as seen from the file: beside it, or where it was annotated if both are on this machine."""
    if original is not None:
        here = local_path(place.destination.uri)
        if here is not None:
            # A system goes up from where a link leads, not from where it is. The image itself may be a link, and keeps
            # its name.
            folder, file = os.path.split(original)
            start = os.path.realpath(os.path.dirname(os.path.join(here, name)))
            return os.path.join(os.path.relpath(os.path.realpath(folder), start), file)
    return posixpath.relpath(copy, posixpath.dirname(name) or ".")


LABELME = Format(_write_piece, settings=frozenset({"images"}), suffixes=(".json",))
