"""From a file's bytes to RGB pixels, for whatever a million files hold.

Every failure is one of two exceptions with a one-line message; anything Pillow throws at a malformed file is turned
into one of them, because a bad image is data (a row with a status), not an error of the run.
"""

from __future__ import annotations

import io
import warnings

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from sam_pipeline.storage.filesystem import one_line

# Only formats whose decoders are in daily use on untrusted files; Pillow knows forty more. MPO, a JPEG with more
# pictures behind it, is opened as JPEG; naming it here would make Pillow raise KeyError on whatever is not a JPEG.
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")

_BACKGROUND = (255, 255, 255)


class DecodeError(ValueError):
    """The bytes are not an image of an allowed format, or a damaged one."""


class TooLargeError(ValueError):
    """The header announces more pixels than the limit; nothing was decoded."""


def decode_image(data: bytes, *, max_pixels: int) -> npt.NDArray[np.uint8]:
    """Decode the first frame of an image file.

    EXIF orientation is applied; 16-bit samples are scaled to 8; alpha is composed over white; palette, grey, CMYK
    and YCCK become RGB; embedded ICC profiles are ignored, as in the official code.

    Args:
        data: the file.
        max_pixels: limit on width × height, checked from the header before any pixel is decoded.

    Returns:
        (H, W, 3) uint8, RGB.

    Raises:
        DecodeError: empty, truncated, malformed, or of another format.
        TooLargeError: more than max_pixels.
    """
    if not data:
        raise DecodeError("the file is empty")
    try:
        with warnings.catch_warnings():
            # Pillow warns about odd metadata in files it reads well; its size warning is replaced by our own limit.
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                if image.width * image.height > max_pixels:
                    raise TooLargeError(f"{image.width}x{image.height} pixels, the limit is {max_pixels}")
                image.load()
                return np.asarray(_to_rgb(_oriented(image)))
    except (DecodeError, TooLargeError):
        raise
    except Image.DecompressionBombError as error:
        raise TooLargeError(one_line(error)) from None
    except Exception as error:
        raise DecodeError(one_line(error).replace("<_io.BytesIO object at ", "<")) from error


def _oriented(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # noqa: BLE001  damaged EXIF is no reason to lose an image that decodes
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        return _scaled_from_16_bit(image)
    if image.mode == "F":
        raise DecodeError("floating-point samples have no defined range")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        background = Image.new("RGBA", rgba.size, (*_BACKGROUND, 255))
        return Image.alpha_composite(background, rgba).convert("RGB")
    return image.convert("RGB")


def _scaled_from_16_bit(image: Image.Image) -> Image.Image:
    samples = np.asarray(image).astype(np.int64)
    if samples.min(initial=0) < 0 or samples.max(initial=0) > 0xFFFF:
        raise DecodeError("integer samples beyond 16 bits have no defined range")
    return Image.fromarray(((samples + 128) // 257).astype(np.uint8)).convert("RGB")
