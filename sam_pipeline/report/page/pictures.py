"""Images of a run with their masks, small enough for a page: a picture, and an outline for each mask."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from sam_pipeline.drawing import mask_color
from sam_pipeline.report.page.number_text import percent
from sam_pipeline.report.page.outlines import outline
from sam_pipeline.results.categories import Categories
from sam_pipeline.results.images import read_images
from sam_pipeline.results.results import Results
from sam_pipeline.results.review import mask_key
from sam_pipeline.safety.clean_text import one_line

# What a picture, before it is written as text, and its outlines may take: with 24 pictures a page stays below 5 MB.
# Those of pictures with longer sides than this may take more.
_USUAL_SIDE = 640
_MOST_PICTURE_BYTES = 80_000
_MOST_OUTLINE_BYTES = 80_000
_BYTES_BESIDE_OUTLINE = 250
_QUALITIES = (80, 65, 50, 35, 20)
_TOLERANCES = (1.0, 2.0, 4.0)
# Letters of a category in a label.
_MOST_LETTERS = 20
_COLUMNS = ["image_id", "uri", "height", "width", "num_masks", "masks"]


@dataclass(frozen=True)
class DrawnMask:
    """A mask of a picture; coordinates are pixels of the picture."""

    number: int
    """In the image's masks, from 1 on."""
    path: str
    """Its outline, as the attribute d of an SVG path with the fill rule evenodd."""
    color: str
    label: str
    """Category and score of the prompt; empty for a mask of the grid."""
    box_xywh: tuple[float, float, float, float]
    prompt_box_xywh: tuple[float, float, float, float] | None
    numbers: str
    """Area and scores, for people."""
    key: str
    """Its name in a review."""


@dataclass(frozen=True)
class Picture:
    """An image as the page shows it."""

    image_id: int
    uri: str
    image_wh: tuple[int, int]
    size_wh: tuple[int, int]
    """The frame of the masks' coordinates."""
    data: str
    """A data: URI; empty where the image could not be read."""
    missing: str
    """Why it could not be read."""
    num_masks: int
    masks: tuple[DrawnMask, ...]
    """Large ones first; fewer than num_masks where they would take too much room."""
    covered: float | None
    """Share of the image in at least one mask, overlaps counted once; None for an image without pixels."""


def read_pictures(
    results: Results, image_ids: Sequence[int], names: Categories, *, longest_side: int
) -> Iterator[Picture]:
    """Read images once more and outline their masks, one image in memory at a time.

    Args:
        results: of the run; its selection decides which masks are drawn.
        image_ids: of images with status ok, each once.
        names: of categories.
        longest_side: of the pictures, in pixels.

    Yields:
        Pictures in an order of their own.

    Raises:
        OutputError, InputError, StorageUnavailableError: the run, or the storage of the images, cannot be read.
    """
    for image_id, image in read_images(results, image_ids):
        for rows in results.tables(_COLUMNS, first_id=image_id, last_id=image_id):
            for row in rows.to_pylist():
                yield _picture(row, image, names, longest_side)


def _picture(row: Mapping[str, Any], image: NDArray[np.uint8] | Exception, names: Categories, side: int) -> Picture:
    width, height = row["width"], row["height"]
    data = missing = ""
    if isinstance(image, FileNotFoundError):
        missing = "the original is gone"
    elif isinstance(image, Exception):
        missing = f"the original cannot be read: {one_line(image)}"
    elif image.shape[:2] != (height, width):
        missing = f"the original has {image.shape[1]} x {image.shape[0]} pixels now"
    else:
        data = _data_uri(image, side)
    # Small images are drawn larger, so that the edges of their masks are those of pixels.
    scale = side / max(width, height)
    size_wh = max(1, round(width * scale)), max(1, round(height * scale))
    return Picture(
        row["image_id"],
        row["uri"],
        (width, height),
        size_wh,
        data,
        missing,
        row["num_masks"],
        tuple(_drawn(row, names, scale, side)),
        _covered(row),
    )


def _data_uri(image: NDArray[np.uint8], side: int) -> str:
    picture = Image.fromarray(image)
    picture.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=3)
    most = _MOST_PICTURE_BYTES * _growth(side)
    for quality in (*_QUALITIES, *_QUALITIES):
        written = io.BytesIO()
        picture.save(written, "WEBP", quality=quality)
        if written.tell() <= most:
            break
        if quality == _QUALITIES[-1]:  # noise, which nothing compresses
            picture.thumbnail((side // 2, side // 2))
    return "data:image/webp;base64," + base64.b64encode(written.getvalue()).decode("ascii")


def _growth(side: int) -> float:
    return max(1.0, (side / _USUAL_SIDE) ** 2)


def _drawn(row: Mapping[str, Any], names: Categories, scale: float, side: int) -> list[DrawnMask]:
    """Outlines that fit: rougher ones where there are many, and then those of the largest masks alone."""
    num_pixels = row["height"] * row["width"]
    ordered = sorted(enumerate(row["masks"]), key=lambda pair: -pair[1]["area"])
    for tolerance in _TOLERANCES:
        paths = _fitting([mask for _, mask in ordered], scale, tolerance, side)
        if len(paths) == len(ordered):
            break
    return [
        _drawn_mask(number, mask, path, num_pixels, names, scale)
        for (number, mask), path in zip(ordered, paths, strict=False)
        if path
    ]


def _fitting(masks: Sequence[Mapping[str, Any]], scale: float, tolerance: float, side: int) -> list[str]:
    """The outlines of the first masks, as many as fit."""
    paths: list[str] = []
    left = _MOST_OUTLINE_BYTES * _growth(side)
    for mask in masks:
        path = outline(mask, scale, tolerance)
        left -= len(path) + _BYTES_BESIDE_OUTLINE
        if left < 0:
            break
        paths.append(path)
    return paths


def _drawn_mask(
    number: int, mask: Mapping[str, Any], path: str, num_pixels: int, names: Categories, scale: float
) -> DrawnMask:
    x, y, w, h = mask["bbox"]
    box, prompt_box = (x, y, w + 1, h + 1), mask["prompt_box"]
    red, green, blue = mask_color(number)
    category = "" if mask["category_id"] is None else names.name(mask["category_id"])
    score = "" if mask["score"] is None else f"{mask['score']:.2f}"
    label = category if len(category) <= _MOST_LETTERS else category[: _MOST_LETTERS - 1] + "…"
    numbers = [
        f"{mask['area']:,} px ({percent(mask['area'] / num_pixels)})",
        f"predicted IoU {mask['predicted_iou']:.3f}",
        f"stability {mask['stability_score']:.3f}",
    ]
    if category or score:
        numbers.insert(0, f"{category} {score}".strip())
    return DrawnMask(
        number + 1,
        path,
        f"#{red:02x}{green:02x}{blue:02x}",
        f"{label} {score}".strip(),
        _scaled(box, scale),
        None if prompt_box is None else _scaled(prompt_box, scale),
        ", ".join(numbers),
        mask_key(mask),
    )


def _scaled(box_xywh: Sequence[float], scale: float) -> tuple[float, float, float, float]:
    x, y, w, h = (round(value * scale, 1) for value in box_xywh)
    return x, y, w, h


def _covered(row: Mapping[str, Any]) -> float | None:
    if not row["masks"]:
        return 0.0
    union: Any = coco_mask.merge([mask["segmentation"] for mask in row["masks"]])
    covered = float(coco_mask.area(union))
    return covered / int(row["height"] * row["width"])
