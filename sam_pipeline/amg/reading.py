"""An image as the official script reads it: by OpenCV, colours only, turned as EXIF says."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import UnidentifiedImageError

from sam_pipeline.amg.settings import MAX_PIXELS
from sam_pipeline.safety.clean_text import printable
from sam_pipeline.safety.regular_files import open_regular
from sam_pipeline.storage.inputs.decoding.image_reading import DecodeError, TooLargeError, decode_image


def read_image(path: Path) -> NDArray[np.uint8]:
    """Read an image, (H, W, 3) uint8 RGB.

    The pixels are OpenCV's, so that the masks are the official script's: alpha is left out, 16 bits lose the lower
    eight. annotate reads both otherwise. Unlike OpenCV alone, it refuses what is damaged.

    Raises:
        DecodeError: not an image, or a damaged one.
        TooLargeError: more than MAX_PIXELS, or what takes too much memory.
        OSError: it cannot be read, or is no regular file.
    """
    with open_regular(path) as file:
        data = file.read()
    try:
        decode_image(data, max_pixels=MAX_PIXELS)
    except DecodeError as error:
        # We cannot check the few formats that only OpenCV reads, such as JPEG 2000 and portable pixmaps.
        if not isinstance(error.__cause__, UnidentifiedImageError):
            raise
    image = _decode_with_opencv(data)
    if image is None:
        raise DecodeError("not an image that OpenCV reads")
    height, width = image.shape[:2]
    if height * width > MAX_PIXELS:
        raise TooLargeError(f"{width}x{height} pixels, the limit is {MAX_PIXELS}")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)


def _decode_with_opencv(data: bytes) -> NDArray[np.uint8] | None:
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)  # type: ignore[return-value]  # bytes are uint8
    except cv2.error as error:
        if "MAX_IMAGE" in error.err:  # OpenCV's own limit, which the command amg sets
            raise TooLargeError(f"too many pixels, the limit is {MAX_PIXELS}") from error
        raise DecodeError(f"OpenCV cannot decode it: {printable(error.err)}") from error
