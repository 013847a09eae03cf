"""Binary masks as runs of pixels, which is how masks are kept between the logits and their compressed form.

Pixels are numbered down the columns, as in COCO's run-length encoding: pixel (y, x) of an image of H rows is x * H + y.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from sam_pipeline.masks.crops import Box


@dataclass(frozen=True)
class Runs:
    """One mask of (H, W) pixels."""

    size: tuple[int, int]
    """(H, W)."""
    edges: NDArray[np.int64]
    """(2 * runs,) strictly ascending: the first pixel of each run and the pixel after its last, in turn."""

    @staticmethod
    def of_mask(mask: NDArray[np.bool_]) -> Runs:
        """The runs of an (H, W) bool mask."""
        height, width = mask.shape
        # OpenCV's blocked transpose beats np.asfortranarray four to seven times.
        columns = cv2.transpose(np.ascontiguousarray(mask).view(np.uint8)).reshape(-1)
        changes = np.flatnonzero(columns[1:] != columns[:-1]) + 1
        first = [0] if columns[0] else []
        last = [columns.size] if columns[-1] else []
        return Runs((height, width), np.concatenate([first, changes, last]).astype(np.int64))

    def to_mask(self) -> NDArray[np.bool_]:
        """The mask as an (H, W) bool array."""
        height, width = self.size
        columns = np.zeros(height * width + 1, np.int8)
        columns[self.edges[0::2]] = 1
        columns[self.edges[1::2]] = -1
        return np.cumsum(columns[:-1], dtype=np.int8).view(np.bool_).reshape(width, height).T

    def area(self) -> int:
        """Number of pixels in the mask."""
        return int((self.edges[1::2] - self.edges[0::2]).sum())

    def uncrop(self, crop_box_xyxy: Box, original_size: tuple[int, int]) -> Runs:
        """Place a crop's mask in the image it was cut from.

        Args:
            crop_box_xyxy: the crop in pixels of the image, x1 and y1 exclusive.
            original_size: (H, W) of the image.

        Returns:
            The mask at the size of the image, empty outside the crop.
        """
        crop_height = self.size[0]
        height = original_size[0]
        x0, y0, _, _ = crop_box_xyxy
        # A run that goes on from the foot of one column to the head of the next has the image's pixels between them.
        starts, ends = self.edges[0::2], self.edges[1::2]
        first_columns = starts // crop_height
        num_columns = (ends - 1) // crop_height - first_columns + 1
        run = np.repeat(np.arange(len(starts)), num_columns)
        columns = (
            first_columns[run] + np.arange(len(run)) - np.repeat(np.cumsum(num_columns) - num_columns, num_columns)
        )
        tops = np.maximum(starts[run] - columns * crop_height, 0)
        bottoms = np.minimum(ends[run] - columns * crop_height, crop_height)
        shift = (columns + x0) * height + y0
        edges = np.stack([tops + shift, bottoms + shift], axis=1).reshape(-1)
        # Pieces of a crop as high as the image touch again.
        touching = np.flatnonzero(edges[1:-1:2] == edges[2::2])
        return Runs(original_size, np.delete(edges, np.concatenate([2 * touching + 1, 2 * touching + 2])))
