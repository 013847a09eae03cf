"""Binary masks as runs of pixels, which is how masks are kept between the logits and their compressed form.

Pixels are numbered down the columns, as in COCO's run-length encoding: pixel (y, x) of an image of H rows is x * H + y.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from sam_pipeline.masks.geometry.crops import Box


@dataclass(frozen=True)
class Runs:
    """One mask of (H, W) pixels."""

    size: tuple[int, int]
    """(H, W)."""
    edges: NDArray[np.int64]
    """(2 * runs,) strictly ascending: the first pixel of each run and the pixel after its last, in turn."""

    @staticmethod
    def of_mask(mask: NDArray[np.bool_]) -> Runs:
        """The runs of an (H, W) bool mask.

        Raises:
            TypeError: the mask is not bool.
        """
        if mask.dtype != np.bool_:  # any other type has other bytes, which OpenCV would take for pixels
            raise TypeError(f"mask must be bool, got {mask.dtype}")
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
        if self.size == original_size:
            return self
        from sam_pipeline.masks.runs import run_kernels  # numba, which tasks that read and write do without

        x0, y0, _, _ = crop_box_xyxy
        return Runs(original_size, run_kernels.uncrop(self.edges, self.size, original_size[0], x0, y0))
