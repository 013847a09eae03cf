"""Coloured overlays: every mask of an image drawn over it."""

from __future__ import annotations

import colorsys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
from PIL import Image
from pycocotools import mask as coco_mask

from sam_pipeline.storage.inputs.decoding.image_reading import decode_image
from sam_pipeline.storage.inputs.fetching import fetch
from sam_pipeline.storage.inputs.source_object import SourceObject
from sam_pipeline.storage.objects.filesystem import StorageOptions
from sam_pipeline.storage.tables.result_reading import iterate_results
from sam_pipeline.storage.tables.results import open_results

_OPACITY = 0.45
# Steps of the golden ratio around the colour circle: neighbours in any list of masks never look alike.
_HUE_STEP = 0.618034


def draw_overlay(image: npt.NDArray[np.uint8], masks: Sequence[dict[str, Any]]) -> npt.NDArray[np.uint8]:
    """Tint and outline masks, large ones first, so that small ones stay visible.

    Args:
        image: (H, W, 3) uint8 RGB.
        masks: as in the column masks; each as large as the image.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    canvas = image.astype(np.float32)
    outlines = []
    for index, mask in enumerate(sorted(masks, key=lambda mask: -mask["area"])):
        pixels = coco_mask.decode(mask["segmentation"])
        color = 255 * np.array(colorsys.hsv_to_rgb(index * _HUE_STEP % 1, 0.85, 1.0), np.float32)
        canvas[pixels > 0] = (1 - _OPACITY) * canvas[pixels > 0] + _OPACITY * color
        contours, _ = cv2.findContours(pixels, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        outlines.append((contours, color.tolist()))
    drawn = canvas.round().astype(np.uint8)
    for contours, outline_color in outlines:
        cv2.drawContours(drawn, contours, -1, outline_color, thickness=1)
    return drawn


def write_overlays(output: str, folder: Path, options: StorageOptions) -> Iterator[Path]:
    """Write IMAGE_ID.png for every annotated image of a run, fetching the images again.

    File names hold ids and not keys, which may be anything.

    Yields:
        The path of each picture.
    """
    folder.mkdir(parents=True, exist_ok=True)
    columns = ["image_id", "uri", "height", "width", "masks"]
    for rows in iterate_results(open_results(output, options), columns, pc.field("status") == "ok", options):
        for row in rows.to_pylist():
            data = fetch([SourceObject(row["uri"], None, None)], options, None)[0]
            if isinstance(data, Exception):
                raise data
            image = np.asarray(decode_image(data, max_pixels=row["height"] * row["width"]))
            path = folder / f"{row['image_id']:06}.png"
            Image.fromarray(draw_overlay(image, row["masks"])).save(path)
            yield path
