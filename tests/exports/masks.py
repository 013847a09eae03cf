"""Masks of every kind that formats stumble over, and runs of them."""

import numpy as np

from sam_pipeline.masks.runs import rle
from sam_pipeline.masks.runs.runs import Runs
from tests.storage import runs
from tests.stored_masks import NO_PROMPT

HEIGHT, WIDTH = 97, 131


def shapes(height=HEIGHT, width=WIDTH):
    """(H, W) bool by what is special about it."""
    y, x = np.mgrid[:height, :width]

    def disc(center_y, center_x, radius):
        return (y - center_y) ** 2 + (x - center_x) ** 2 <= radius**2

    return {
        "disc": disc(40, 50, 25),
        "with a hole": disc(40, 50, 30) & ~disc(42, 48, 9),
        "with an island in its hole": (disc(45, 60, 40) & ~disc(45, 60, 25)) | disc(45, 60, 9),
        "two parts": disc(25, 25, 14) | disc(70, 100, 18),
        "parts that touch at a corner": ((y < 40) & (x < 40)) | ((y >= 40) & (y < 60) & (x >= 40) & (x < 70)),
        "one pixel": (y == 11) & (x == 17),
        "a row of pixels": (y == 5) & (x > 3) & (x < 40),
        "a diagonal": y == x,
        "a small square": (y >= 8) & (y < 10) & (x >= 4) & (x < 6),
        "the whole image": np.ones((height, width), bool),
        "at the border": (x > width - 20) & (y > 30),
        "at random": np.random.default_rng(1).random((height, width)) < 0.3,
    }


def stored(pixels, **fields):
    """A mask as it is stored, of (H, W) bool."""
    rows, columns = np.nonzero(pixels)
    x, y = int(columns.min()), int(rows.min())
    height, width = pixels.shape
    return {
        "segmentation": rle.encode(Runs.of_mask(pixels)),
        "bbox": [x, y, int(columns.max()) - x, int(rows.max()) - y],
        "area": int(pixels.sum()),
        "predicted_iou": 0.9,
        "stability_score": 0.97,
        "point_coords": [[x + 0.5, y + 0.25]],
        "crop_box": [0, 0, width, height],
        **NO_PROMPT,
    } | fields


def prompted(pixels, category_id, score=0.5, **fields):
    """The mask of a box that is a little larger than it."""
    x, y, w, h = stored(pixels)["bbox"]
    prompt = {"prompt_id": 3, "prompt_box": [x - 0.5, y - 0.5, w + 2, h + 2], "point_labels": [], "point_coords": []}
    return stored(pixels, **prompt, category_id=category_id, score=score, **fields)


def row(image_id, masks, height=HEIGHT, width=WIDTH, **changes):
    """The result of an image with these masks."""
    return runs.row(image_id, len(masks), height=height, width=width, masks=masks, **changes)


def all_shapes():
    """Every kind of mask, stored."""
    return [stored(pixels) for pixels in shapes().values()]
