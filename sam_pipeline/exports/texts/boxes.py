"""Boxes as exports write them: COCO's, whose width and height are pixel counts."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sam_pipeline.exports.settings import Bbox


def boxes_xywh(masks: pa.StructArray, which: Bbox) -> npt.NDArray[np.float64]:
    """The boxes of masks in COCO's convention.

    The results keep the official generator's boxes, whose width and height are one less than a count of pixels.

    Args:
        masks: as they are stored, (N,).
        which: "prompt" takes the boxes that masks were prompted with, where there are such.

    Returns:
        (N, 4) x, y, w, h in pixels of the image: x and y of the first pixel, w and h in pixels.
    """
    boxes = np.array(masks.field("bbox").flatten(), dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] += 1
    if which == "prompt":
        prompt_boxes = masks.field("prompt_box")
        boxes[np.asarray(prompt_boxes.is_valid())] = np.asarray(prompt_boxes.flatten()).reshape(-1, 4)
    return boxes
