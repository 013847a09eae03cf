"""From a file's bytes to RGB pixels, for whatever a million files hold.

Every failure is one of two exceptions with a one-line message; anything Pillow throws at a malformed file is turned
into one of them, because a bad image is data (a row with a status), not an error of the run.
"""

from __future__ import annotations

import io
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from sam_pipeline.storage.filesystem import one_line

# Only formats whose decoders are in daily use on untrusted files; Pillow knows forty more. MPO, a JPEG with more
# pictures behind it, is opened as JPEG; naming it here would make Pillow raise KeyError on whatever is not a JPEG.
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")

_BACKGROUND = (255, 255, 255)

# Pixels converted at once: of a whole large image, Pillow's copies for alpha and 16 bits would be gigabytes.
_BAND_PIXELS = 2**22

_SETTINGS_LOCK = threading.Lock()


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
    as_format = ""
    try:
        with _own_rules(max_pixels), Image.open(io.BytesIO(data), formats=FORMATS) as image:
            as_format = f" as {image.format}"
            num_pixels = image.width * image.height
            if num_pixels > max_pixels:
                raise TooLargeError(f"{image.width}x{image.height} pixels, the limit is {max_pixels}")
            if num_pixels == 0:
                raise DecodeError(f"{image.width}x{image.height} pixels: the image is empty")
            image.load()
            _orient(image)
            return _rgb_pixels(image)
    except (DecodeError, TooLargeError):
        raise
    except UnidentifiedImageError as error:
        # Pillow's own message holds no more than the address of a buffer.
        formats = f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
        raise DecodeError(f"not a readable {formats} file; it begins with {data[:16]!r}") from error
    except Image.DecompressionBombError as error:
        num_pixels = int(re.findall(r"\d+", str(error))[0])
        raise TooLargeError(f"{num_pixels} pixels, the limit is {max_pixels}") from error
    except MemoryError as error:
        raise TooLargeError("there is not enough memory to decode it") from error
    except Exception as error:
        kind = "" if isinstance(error, (OSError, SyntaxError, ValueError)) else f"{type(error).__name__}: "
        raise DecodeError(f"cannot be decoded{as_format}: {kind}{one_line(error)}") from error


@contextmanager
def _own_rules(max_pixels: int) -> Iterator[None]:
    """One limit on pixels instead of Pillow's, truncated files as errors, and no warnings, for one image.

    Pillow refuses what has more than twice MAX_IMAGE_PIXELS, also for single tiles and frames of a file; and it warns
    about odd metadata in files that it reads well. All three are settings of the whole process: they are put back
    afterwards, and threads take turns. The pipeline decodes in processes, one image at a time each.
    """
    with _SETTINGS_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
        Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = max_pixels, False
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = before


def _orient(image: Image.Image) -> None:
    with suppress(Exception):  # damaged EXIF is no reason to lose an image that decodes
        ImageOps.exif_transpose(image, in_place=True)


def _rgb_pixels(image: Image.Image) -> npt.NDArray[np.uint8]:
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    num_rows = max(1, _BAND_PIXELS // image.width)
    for top in range(0, image.height, num_rows):
        bottom = min(top + num_rows, image.height)
        pixels[top:bottom] = np.asarray(_to_rgb(image.crop((0, top, image.width, bottom))))
    return pixels


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
    if samples.min() < 0 or samples.max() > 0xFFFF:
        raise DecodeError("integer samples beyond 16 bits have no defined range")
    return Image.fromarray(((samples + 128) // 257).astype(np.uint8)).convert("RGB")
