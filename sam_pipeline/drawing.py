"""Masks drawn over their image, for people to look at."""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from sam_pipeline.masks.runs import rle
from sam_pipeline.masks.runs.rle import Rle
from sam_pipeline.results.rows import MaskDict
from sam_pipeline.safety.clean_text import printable

_OPACITY = 0.45
# Steps of the golden ratio around the colour circle: neighbours in any list of masks never look alike.
_HUE_STEP = 0.618034
# Text height as a share of the image's shorter side; below 12 pixels no letter can be read.
_TEXT_SHARE = 0.025
_MIN_TEXT_PX = 12
_LINE_SHARE = 1 / 500
_LONGEST_NAME = 100
# Pillow's own font has ASCII only; these are looked for among the fonts of the machine.
_WIDER_FONTS = ("NotoSansCJK-Regular.ttc", "DejaVuSans.ttf", "NotoSans-Regular.ttf", "Arial Unicode.ttf", "arial.ttf")

Pixels = npt.NDArray[np.bool_]
Color = tuple[int, int, int]
_Rectangle = tuple[int, int, int, int]
_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def draw_masks(
    image: npt.NDArray[np.uint8],
    masks: Iterable[MaskDict | Rle | npt.NDArray[Any]],
    labels: bool | Sequence[str] = True,
    *,
    categories: Mapping[int, str] | None = None,
    prompt_boxes: bool = False,
) -> npt.NDArray[np.uint8]:
    """Tint, outline and label masks. Large ones are drawn first, so that small ones stay visible.

        picture = draw_masks(run.read_image(row), row["masks"])

    The same masks in the same order get the same colours.

    Args:
        image: (H, W, 3) uint8 RGB.
        masks: each as large as the image: a stored mask, COCO RLE, or an (H, W) array of bool or integers, in which 0
            is background.
        labels: whether each mask is named, or a name for each. By default a name is the category and the score of the
            prompt; of a mask of the grid it is the predicted IoU, of anything else its number in masks. Letters grow
            with the image. A label that finds no free place at its mask is left out. Letters beyond ASCII need a font
            on the machine, such as DejaVu or Noto.
        categories: names of categories by category_id; the number is shown where there is none.
        prompt_boxes: whether the boxes that masks were prompted with are drawn too, dashed.

    Returns:
        (H, W, 3) uint8 RGB, a new array.

    Raises:
        ValueError: the image is not (H, W, 3) uint8, a mask is not as large as the image, or is not a mask, or labels
            are more or fewer than masks.
    """
    canvas = np.array(image)
    if canvas.ndim != 3 or canvas.shape[2] != 3 or canvas.dtype != np.uint8:
        raise ValueError(f"image must be (H, W, 3) uint8, got {canvas.shape} {canvas.dtype}")
    listed = list(masks)
    if not isinstance(labels, bool) and len(labels) != len(listed):
        raise ValueError(f"labels must be one for each mask: there are {len(labels)} labels and {len(listed)} masks")
    drawn = [_Drawn.of(mask, number, canvas.shape[:2]) for number, mask in enumerate(listed)]
    drawn.sort(key=lambda mask: -mask.area)
    thickness = max(1, round(min(canvas.shape[:2]) * _LINE_SHARE))
    for mask in drawn:
        mask.tint(canvas)
    for mask in drawn:
        mask.outline(canvas, thickness)
    picture = Image.fromarray(canvas)
    pen = ImageDraw.Draw(picture)
    if prompt_boxes:
        for mask in drawn:
            if box := _field(listed[mask.number], "prompt_box"):
                _draw_dashed(pen, box, mask.color, thickness + 1)
    if labels:
        writing = _Writing(pen, picture.size)
        for mask in drawn:
            name = _name(listed[mask.number], mask.number, categories or {}) if labels is True else labels[mask.number]
            writing.label(mask, name)
    return np.asarray(picture)


def mask_color(number: int) -> Color:
    """The colour, RGB, in which draw_masks draws the mask with this number in its list."""
    red, green, blue = colorsys.hsv_to_rgb(number * _HUE_STEP % 1, 0.85, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


@dataclass(frozen=True)
class _Drawn:
    """A mask that is drawn, within the box of its pixels."""

    number: int
    """In the list of masks."""
    x: int
    y: int
    pixels: Pixels
    """(h, w) of the box; (0, 0) for an empty mask."""
    area: int
    color: Color

    @classmethod
    def of(cls, mask: object, number: int, size_hw: tuple[int, ...]) -> _Drawn:
        pixels = _pixels(mask, number)
        if pixels.shape != size_hw:
            raise ValueError(f"mask {number} is {pixels.shape}, but the image is {size_hw}: they must be equally large")
        x, y, w, h = cv2.boundingRect(pixels.view(np.uint8))
        # A copy: a view would keep the whole mask in memory for as long as there are others to draw.
        return cls(number, x, y, pixels[y : y + h, x : x + w].copy(), int(np.count_nonzero(pixels)), mask_color(number))

    def tint(self, canvas: npt.NDArray[np.uint8]) -> None:
        h, w = self.pixels.shape
        inside = canvas[self.y : self.y + h, self.x : self.x + w]
        tinted = (1 - _OPACITY) * inside[self.pixels] + _OPACITY * np.array(self.color)
        inside[self.pixels] = tinted.round().astype(np.uint8)

    def outline(self, canvas: npt.NDArray[np.uint8], thickness: int) -> None:
        pixels = self.pixels.astype(np.uint8)
        contours, _ = cv2.findContours(pixels, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE, offset=(self.x, self.y))
        cv2.drawContours(canvas, contours, -1, self.color, thickness=thickness)

    def centre(self) -> tuple[int, int]:
        """(x, y) of the pixel that is farthest from the edge of the mask: in the mask, whatever its shape."""
        padded = np.pad(self.pixels.astype(np.uint8), 1)
        depth = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_3)
        y, x = np.unravel_index(depth.argmax(), depth.shape)
        return self.x + int(x) - 1, self.y + int(y) - 1


class _Writing:
    """Labels on a picture, none over another."""

    def __init__(self, pen: ImageDraw.ImageDraw, size_wh: tuple[int, int]) -> None:
        self._pen = pen
        self._size_wh = size_wh
        self._text_px = max(_MIN_TEXT_PX, round(min(size_wh) * _TEXT_SHARE))
        self._taken: list[_Rectangle] = []

    def label(self, mask: _Drawn, name: str) -> None:
        text = printable(name[:_LONGEST_NAME])
        font = _font(text.isascii(), self._text_px)
        text = self._fitting(text, font)
        if not text or not mask.area:
            return
        left, top, right, bottom = self._pen.textbbox((0, 0), text, font)
        padding = max(1, round((bottom - top) / 5))
        w, h = round(right - left) + 2 * padding, round(bottom - top) + 2 * padding
        for x, y in self._places(mask, w, h):
            place = (x, y, x + w, y + h)
            if any(_overlap(place, other) for other in self._taken):
                continue
            self._taken.append(place)
            self._pen.rectangle((x, y, x + w - 1, y + h - 1), fill=mask.color)
            self._pen.text((x + padding - left, y + padding - top), text, _contrast(mask.color), font)
            return

    def _fitting(self, text: str, font: _Font) -> str:
        """The text, cut where it is wider than the picture."""
        widest = 0.9 * self._size_wh[0]
        if self._pen.textlength(text, font) <= widest:
            return text
        while text and self._pen.textlength(text + "...", font) > widest:
            text = text[:-1]
        return text and text + "..."

    def _places(self, mask: _Drawn, w: int, h: int) -> Iterable[tuple[int, int]]:
        """Where a label of w × h pixels may be, as its first pixel: best first, each within the picture."""
        width, height = self._size_wh
        mask_h, mask_w = mask.pixels.shape
        x, y = mask.centre()
        for place_x, place_y in (
            (x - w // 2, y - h // 2),
            (mask.x, mask.y - h),
            (mask.x, mask.y + mask_h),
            (mask.x + mask_w, y - h // 2),
            (mask.x - w, y - h // 2),
            (x - w // 2, y - h // 2 - h),
            (x - w // 2, y - h // 2 + h),
        ):
            yield max(0, min(place_x, width - w)), max(0, min(place_y, height - h))


def _pixels(mask: object, number: int) -> Pixels:
    """The pixels of a mask in any of its forms."""
    if isinstance(mask, Mapping) and "segmentation" in mask:
        mask = mask["segmentation"]
    if isinstance(mask, Mapping):
        if not isinstance(mask.get("counts"), str | bytes):
            raise ValueError(f"mask {number} must be COCO's compressed RLE with size and counts, got {list(mask)}")
        return rle.decode({"size": mask["size"], "counts": mask["counts"]})
    pixels = np.asarray(mask)
    if pixels.dtype.kind not in "biu":
        raise ValueError(f"mask {number} must be an array of bool or integers, or RLE; got {pixels.dtype}")
    return np.ascontiguousarray(pixels != 0)


def _name(mask: object, number: int, categories: Mapping[int, str]) -> str:
    category_id, score = _field(mask, "category_id"), _field(mask, "score")
    if category_id is None and score is None:
        score = _field(mask, "predicted_iou")
    words = [] if category_id is None else [categories.get(category_id, f"category {category_id}")]
    words += [] if score is None else [f"{score:.2f}"]
    return " ".join(words) or str(number)


def _field(mask: object, name: str) -> Any:
    return mask.get(name) if isinstance(mask, Mapping) else None


@lru_cache(maxsize=64)
def _font(is_ascii: bool, size_px: int) -> _Font:
    for name in () if is_ascii else _WIDER_FONTS:
        with suppress(OSError):
            return ImageFont.truetype(name, size_px)
    return ImageFont.load_default(size_px)


def _draw_dashed(pen: ImageDraw.ImageDraw, box_xywh: Sequence[float], color: Color, width: int) -> None:
    x, y, w, h = box_xywh
    corners = np.array([(x, y), (x + w, y), (x + w, y + h), (x, y + h), (x, y)])
    dash = 4.0 * width
    for start, end in pairwise(corners):
        length = float(np.abs(end - start).sum())
        for begin in np.arange(0, length, 2 * dash):
            first, last = (start + (end - start) * at / length for at in (begin, min(begin + dash, length)))
            pen.line((*first, *last), fill=color, width=width)


def _contrast(color: Color) -> Color:
    """Black or white, whichever is read more easily on a colour."""
    red, green, blue = color
    return (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 128 else (255, 255, 255)


def _overlap(one: _Rectangle, other: _Rectangle) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
