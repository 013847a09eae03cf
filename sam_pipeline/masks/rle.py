"""Binary masks as compressed COCO run-length encoding."""

from __future__ import annotations

import warnings
from typing import TypedDict

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from sam_pipeline.masks.crops import Box


class Rle(TypedDict):
    """A mask as COCO and SA-1B store it; `pycocotools.mask.decode` takes it as it is."""

    size: list[int]
    """[H, W]"""
    counts: str
    """Column-major run lengths, compressed."""


def encode(mask: NDArray[np.bool_]) -> Rle:
    """Compress an (H, W) bool mask."""
    # pycocotools reads columns; OpenCV's blocked transpose beats np.asfortranarray four to seven times.
    columns = cv2.transpose(np.ascontiguousarray(mask).view(np.uint8))  # (W, H)
    return _as_text(coco_mask.encode(columns.T))


def decode(rle: Rle) -> NDArray[np.bool_]:
    """Expand to an (H, W) bool mask."""
    with warnings.catch_warnings():
        # pycocotools 2.0.11 has yet to learn of the copy keyword of NumPy 2; the result is right.
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
        mask = coco_mask.decode(rle)
    return np.asarray(mask).view(np.bool_)


def area(rle: Rle) -> int:
    """Number of pixels in the mask."""
    return int(coco_mask.area(rle))


def uncrop(rle: Rle, crop_box_xyxy: Box, original_size: tuple[int, int]) -> Rle:
    """Place a crop's mask in the image it was cut from.

    Args:
        rle: mask of the crop.
        crop_box_xyxy: the crop in pixels of the image, x1 and y1 exclusive.
        original_size: (H, W) of the image.

    Returns:
        The mask at the size of the image, empty outside the crop.
    """
    height, width = original_size
    if crop_box_xyxy == (0, 0, width, height):
        return rle
    x0, y0, x1, y1 = crop_box_xyxy
    mask = np.zeros((height, width), dtype=bool)
    mask[y0:y1, x0:x1] = decode(rle)
    return encode(mask)


def _as_text(rle: dict[str, object]) -> Rle:
    size, counts = rle["size"], rle["counts"]
    assert isinstance(size, list)
    assert isinstance(counts, bytes)
    return {"size": size, "counts": counts.decode("ascii")}
