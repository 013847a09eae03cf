"""Between the original frame of an image and the input frame of the model.

Reproduces segment_anything/utils/transforms.py. N points or boxes; H W pixels, original frame; h w pixels, model input.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sam_pipeline.masks.geometry.resize import preprocess_shape, remedy, resize_pillow


class ResizeLongestSide:
    """Resizes images to a long side of `target_length` pixels, and moves points and boxes along with them."""

    def __init__(self, target_length: int) -> None:
        self.target_length = target_length

    def apply_image(self, image: NDArray[Any]) -> NDArray[Any]:
        """Resize an image as the model expects it.

        Args:
            image: (H, W, 3) uint8. (H, W), and other channels and dtypes that Pillow has a mode for, keep theirs.

        Raises:
            ValueError: it is no array, such as a Pillow image, or one that Pillow has no mode for.
        """
        if not isinstance(image, np.ndarray) or image.size == 0:
            raise ValueError(f"image must be a non-empty array, got {type(image).__name__}; {remedy(image)}")
        if image.dtype == np.bool_:
            raise ValueError("Pillow does not interpolate bool arrays: use image.astype(np.uint8)")
        if image.ndim == 3 and image.shape[2] == 1:
            image = image[..., 0]
        try:
            pixels = Image.fromarray(image)
        except TypeError as error:
            raise ValueError(
                f"Pillow has no mode for shape {image.shape} and dtype {image.dtype}; {remedy(image)}"
            ) from error
        return np.array(resize_pillow(pixels, self.target_length))

    def apply_coords(self, coords: NDArray[np.generic], original_size: tuple[int, int]) -> NDArray[np.float64]:
        """Move points from the original frame into the model input frame.

        Args:
            coords: (..., 2), x and y in pixels, original frame; left unchanged.
            original_size: (H, W).

        Returns:
            (..., 2) float64, model input frame.
        """
        scale_x, scale_y = self._scale_xy(original_size)
        moved = np.array(coords, dtype=np.float64)
        moved[..., 0] *= scale_x
        moved[..., 1] *= scale_y
        return moved

    def apply_boxes(self, boxes: NDArray[np.generic], original_size: tuple[int, int]) -> NDArray[np.float64]:
        """Move xyxy boxes, (N, 4) or (4,), into the model input frame; returns (N, 4) float64."""
        return self.apply_coords(boxes.reshape(-1, 2, 2), original_size).reshape(-1, 4)

    def apply_image_torch(self, image: Tensor) -> Tensor:
        """Resize a batch of float images on their device: (B, C, H, W) → (B, C, h, w).

        Close to `apply_image` but not equal to it: this one does not round to 8 bits between the two axes.
        The official method takes the batch and channel sizes for H and W; this one does not.
        """
        size = preprocess_shape(image.shape[-2], image.shape[-1], self.target_length)
        return F.interpolate(image, size, mode="bilinear", align_corners=False, antialias=True)

    def apply_coords_torch(self, coords: Tensor, original_size: tuple[int, int]) -> Tensor:
        """`apply_coords` for tensors: (..., 2) of any dtype → (..., 2) float32."""
        scale_x, scale_y = self._scale_xy(original_size)
        moved = coords.detach().clone().to(torch.float32)
        moved[..., 0] *= scale_x
        moved[..., 1] *= scale_y
        return moved

    def apply_boxes_torch(self, boxes: Tensor, original_size: tuple[int, int]) -> Tensor:
        """`apply_boxes` for tensors: (N, 4) of any dtype → (N, 4) float32."""
        return self.apply_coords_torch(boxes.reshape(-1, 2, 2), original_size).reshape(-1, 4)

    @staticmethod
    def get_preprocess_shape(oldh: int, oldw: int, long_side_length: int) -> tuple[int, int]:
        """Size (h, w) of an image of (oldh, oldw) pixels once its long side is `long_side_length`."""
        return preprocess_shape(oldh, oldw, long_side_length)

    def _scale_xy(self, original_size: tuple[int, int]) -> tuple[float, float]:
        height, width = original_size
        input_height, input_width = preprocess_shape(height, width, self.target_length)
        return input_width / width, input_height / height
