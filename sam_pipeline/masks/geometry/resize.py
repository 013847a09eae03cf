"""Resizing an image so that its long side fits the image encoder, with NumPy and Pillow only.

Reproduces `ResizeLongestSide.apply_image` of segment_anything/utils/transforms.py to the byte. CPU tasks that read
images call this, so it must not import torch.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def preprocess_shape(height: int, width: int, long_side: int) -> tuple[int, int]:
    """Size of an image once its long side is `long_side` pixels.

    Args:
        height: rows of the image, at least 1.
        width: columns of the image, at least 1.
        long_side: length of the long side after resizing, in pixels.

    Returns:
        (height, width) in the model input frame, each at least 1: the official formula rounds the short side of an
        image thinner than 1:2048 down to 0, which no resize accepts.
    """
    scale = long_side * 1.0 / max(height, width)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def resize_image(image: NDArray[np.uint8], long_side: int) -> NDArray[np.uint8]:
    """Resize an image with Pillow's antialiased bilinear filter on 8-bit values.

    The masks depend on these bytes: float or OpenCV resizing gives other pixels, and other masks.

    Args:
        image: (H, W, 3) uint8, original or crop frame.
        long_side: length of the long side after resizing, in pixels.

    Returns:
        (h, w, 3) uint8, model input frame, unpadded.

    Raises:
        ValueError: the image is not (H, W, 3) uint8, or is empty.
    """
    check_image(image)
    return np.array(resize_pillow(Image.fromarray(image), long_side))


def resize_pillow(image: Image.Image, long_side: int) -> Image.Image:
    """The same for a Pillow image. The model needs mode RGB; other modes keep theirs."""
    height, width = preprocess_shape(image.height, image.width, long_side)
    return image.resize((width, height), Image.Resampling.BILINEAR)


def check_image(image: object) -> None:
    """Raise ValueError, with the remedy, unless `image` is a non-empty (H, W, 3) uint8 array."""
    if not isinstance(image, np.ndarray):
        raise ValueError(f"image must be an array, got {type(image).__name__}; {remedy(image)}")
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise ValueError(
            f"image must be a non-empty (H, W, 3) uint8 array, got shape {image.shape} and dtype {image.dtype}; "
            f"{remedy(image)}"
        )


def remedy(image: object) -> str:
    """How an (H, W, 3) uint8 array is made of something else, for a message."""
    of_pillow = 'np.asarray(image.convert("RGB"))'
    if isinstance(image, Image.Image):
        return f"{of_pillow} makes one of a Pillow image"
    if not isinstance(image, np.ndarray):
        return f"np.asarray(image) makes an array, and {of_pillow} one of a Pillow image"
    if image.size == 0:
        return "it has no pixels"
    if image.dtype != np.uint8:
        return "bring values to 0 to 255, then image.astype(np.uint8)"
    if image.ndim == 3 and image.shape[0] == 3:
        return "channels come last: np.moveaxis(image, 0, -1)"
    return f"convert grayscale or RGBA images to RGB first: image = Image.fromarray(image); {of_pillow}"
