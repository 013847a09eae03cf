"""Binary masks as compressed COCO run-length encoding."""

from __future__ import annotations

import warnings
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from sam_pipeline.masks.runs.runs import Runs


class Rle(TypedDict):
    """A mask as COCO and SA-1B store it; `pycocotools.mask.decode` takes it as it is."""

    size: list[int]
    """[H, W]"""
    counts: str
    """Column-major run lengths, compressed."""


def encode(runs: Runs) -> Rle:
    """Compress a mask."""
    from sam_pipeline.masks.runs import run_kernels  # numba, which tasks that read and write do without

    height, width = runs.size
    counts = run_kernels.compress(runs.edges, height * width)
    return {"size": [height, width], "counts": counts.tobytes().decode("ascii")}


def decode(rle: Rle) -> NDArray[np.bool_]:
    """Expand to an (H, W) bool mask."""
    with warnings.catch_warnings():
        # pycocotools 2.0.11 has yet to learn of the copy keyword of NumPy 2; the result is right.
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
        mask = coco_mask.decode(rle)
    return np.asarray(mask).view(np.bool_)


def draw(rle: Rle, pixels: NDArray[np.uint8]) -> tuple[tuple[int, int, int, int], int]:
    """Set the pixels of a mask to 1 in an array of zeros: as decode, but only the mask's own pixels are touched.

    Args:
        rle: the mask.
        pixels: (H, W) uint8, row after row.

    Returns:
        x0, y0, x1, y1 of the box around the mask's pixels, x1 and y1 exclusive, and the number of pixels.

    Raises:
        ValueError: the mask is of another size.
    """
    from sam_pipeline.masks.runs import run_kernels  # numba, which tasks that read and write do without

    if tuple(rle["size"]) != pixels.shape:
        raise ValueError(f"a mask of {rle['size']} pixels cannot be drawn in {list(pixels.shape)}")
    x0, y0, x1, y1, area = run_kernels.draw(np.frombuffer(rle["counts"].encode("ascii"), np.uint8), pixels)
    return (x0, y0, x1, y1), area
