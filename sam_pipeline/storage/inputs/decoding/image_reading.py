"""From a file's bytes to an RGB image, for whatever a million files hold.

Every failure is one of two exceptions with a one-line message; anything Pillow throws at a malformed file is turned
into one of them, because a bad image is data (a row with a status), not an error of the run.
"""

from __future__ import annotations

import hashlib
import io
import re
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageFile, TiffImagePlugin, UnidentifiedImageError
from PIL.ExifTags import Base as Tag

from sam_pipeline.safety.clean_text import one_line
from sam_pipeline.storage.inputs.decoding.image_headers import why_too_long
from sam_pipeline.storage.inputs.decoding.jpeg_endings import NUM_ENDINGS, has_all_scans, possible_endings

# Only formats whose decoders are in daily use on untrusted files; Pillow knows forty more. MPO, a JPEG with more
# pictures behind it, is opened as JPEG; naming it here would make Pillow raise KeyError on whatever is not a JPEG.
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")

_BACKGROUND = (255, 255, 255)

# Pixels converted at once: of a whole large image, Pillow's copies for alpha and 16 bits would be gigabytes.
_BAND_PIXELS = 2**22

# What one image may take. A max_pixels above its default raises these limits in proportion. They were found by
# measuring hostile files: they keep one below 1 GB and 10 s, except where the file itself is tens of megabytes.
_BUDGET_PIXELS = 100_000_000
_MAX_BYTES = 10 * _BUDGET_PIXELS
_MAX_SCANNED_PIXELS = 100 * _BUDGET_PIXELS
_MAX_RLE_PIXELS = _BUDGET_PIXELS // 4
_MAX_ICC_PROFILES = 100

# The start of a scan in a JPEG: marker, length and number of components, in which libjpeg accepts nothing else.
_SCAN = re.compile(rb"\xff\xda\0(?:\x08\x01|\x0a\x02|\x0c\x03|\x0e\x04)")

# Values of the TIFF tag ExtraSamples that mean alpha: premultiplied (1), or not (2).
_ALPHA_SAMPLES = (1, 2)

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_SETTINGS_LOCK = threading.Lock()


class DecodeError(ValueError):
    """The bytes are not an image of an allowed format, or a damaged one."""


class _CutJpegError(DecodeError):
    """A JPEG that ends before its end marker."""


class TooLargeError(ValueError):
    """More pixels than the limit, or more work or memory than any image may take; nothing was decoded."""


class ImageHeader(NamedTuple):
    """What a file says of its image."""

    kind: str
    """Its format, as Pillow calls it; MPO is a JPEG with more pictures behind it."""
    orientation: int
    """EXIF orientation as the file stores it, also of a TIFF, which Pillow turns by itself: 1 to 8, 1 is upright."""
    size_hw: tuple[int, int]
    """Height and width of the upright image."""


def decode_image(data: bytes, *, max_pixels: int) -> Image.Image:
    """Decode the first frame of an image file.

    EXIF orientation is applied; 16-bit samples are scaled to 8; alpha is composed over white; palette, grey, CMYK
    and YCCK become RGB; embedded ICC profiles are ignored, as in the official code. Where a format leaves open whether
    a fourth channel is alpha (BMP, some TIFFs), one that is zero everywhere is none. A JPEG that lacks its end marker
    and nothing else is decoded.

    Args:
        data: the file.
        max_pixels: limit on width × height, checked from the header before any pixel is decoded.

    Returns:
        The image, upright, of mode RGB; a plain RGB file is not copied.

    Raises:
        DecodeError: empty, truncated, malformed, or of another format.
        TooLargeError: more than max_pixels, or of a kind of which so many pixels take too long or too much memory.
    """
    _check_data(data)
    try:
        return _decode(data, max_pixels)
    except _CutJpegError as error:
        image = _image_without_end_marker(data, max_pixels)
        if image is None:
            raise DecodeError(str(error)) from error
        return image


def read_header(data: bytes, *, max_pixels: int) -> ImageHeader:
    """Read the header of an image file by the rules of decode_image, so that whatever that decodes has one.

    Arguments and errors are those of decode_image. Only a PNG may be decoded: EXIF can come after its pixels.
    """
    _check_data(data)
    with _opened(data, max_pixels) as image:
        if image.format == "PNG" and "exif" not in image.info:
            image.load()  # here: _orientation would suppress an error of it
        assert image.format is not None, "it was read from a file"
        orientation, (width, height) = _orientation(image), image.size
        # Pillow has changed sides already where a TIFF says so in a tag.
        is_sideways = orientation >= 5 and _tiff_tags(image).get(Tag.Orientation) not in range(5, 9)
        return ImageHeader(image.format, orientation, (width, height) if is_sideways else (height, width))


def _check_data(data: bytes) -> None:
    """Raise DecodeError for no data, and for what would keep Pillow busy before it knows the size."""
    if not data:
        raise DecodeError("the file is empty")
    if data.count(b"iCCP") > _MAX_ICC_PROFILES:  # a PNG has one at most; Pillow inflates each, in 2 ms
        raise DecodeError(f"more than {_MAX_ICC_PROFILES} colour profiles")
    if (problem := why_too_long(data)) is not None:
        raise DecodeError(f"cannot be decoded: {problem}")


def _decode(data: bytes, max_pixels: int) -> Image.Image:
    """See decode_image.

    Raises:
        _CutJpegError: a JPEG that ends before its end marker.
    """
    with _opened(data, max_pixels) as image:
        _correct_transparent_colour(image)
        image.load()
        return _rgb_image(image)


@contextmanager
def _opened(data: bytes, max_pixels: int) -> Iterator[ImageFile.ImageFile]:
    """Open an image and compare it with the limits; no pixel is decoded yet. See _own_rules.

    Raises:
        _CutJpegError: a JPEG that ends before its end marker.
        DecodeError, TooLargeError: whatever else is wrong with it, then or within the block.
    """
    as_format = ""
    try:
        with _own_rules(max_pixels), Image.open(io.BytesIO(data), formats=FORMATS) as image:
            as_format = f" as {image.format}"
            num_pixels = image.width * image.height
            if num_pixels > max_pixels:
                raise TooLargeError(f"{image.width}x{image.height} pixels, the limit is {max_pixels}")
            if num_pixels == 0:
                raise DecodeError(f"{image.width}x{image.height} pixels: the image is empty")
            _check_cost(image, data, max_pixels)
            yield image
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
        # Pillow says so of a JPEG whose end marker does not come.
        is_cut = as_format == " as JPEG" and "image file is truncated" in str(error)
        failure = _CutJpegError if is_cut else DecodeError
        raise failure(f"cannot be decoded{as_format}: {kind}{one_line(error)}") from error


def _image_without_end_marker(data: bytes, max_pixels: int) -> Image.Image | None:
    """The image of a JPEG that lacks its end marker; None where more is missing, or where it takes long to know."""
    data = data.rstrip(b"\xff")  # half of the marker
    if not has_all_scans(data):
        return None
    num_scans = NUM_ENDINGS * max(1, len(_SCAN.findall(data)))
    most_pixels = max(1.0, max_pixels / _BUDGET_PIXELS) * _MAX_SCANNED_PIXELS / num_scans
    image, digests = None, set()
    for ending in possible_endings(data):
        image = None  # lest two be in memory
        try:
            image = _decode(data + ending, max_pixels)
        except DecodeError:
            return None
        digests.add(hashlib.sha256(image.tobytes()).digest())
        if len(digests) > 1 or image.width * image.height > most_pixels:
            return None
    return image


@contextmanager
def _own_rules(max_pixels: int) -> Iterator[None]:
    """One limit on pixels instead of Pillow's, truncated files as errors, libtiff, and no warnings, for one image.

    Pillow refuses what has more than twice MAX_IMAGE_PIXELS, also for single tiles and frames of a file. It warns
    about odd metadata in files that it reads well. Its own reader of uncompressed TIFFs takes planes of 16 bits for
    8 bits, and decodes as many strips as a file cares to list. All are settings of the whole process: they are put
    back afterwards, and threads take turns. The pipeline decodes in processes, one image at a time each.
    """
    with _SETTINGS_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, TiffImagePlugin.READ_LIBTIFF
        Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, TiffImagePlugin.READ_LIBTIFF = max_pixels, False, True
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, TiffImagePlugin.READ_LIBTIFF = before


def _check_cost(image: ImageFile.ImageFile, data: bytes, max_pixels: int) -> None:
    """Refuse images that would take far more than others of their size, before a pixel is decoded."""
    num_pixels = image.width * image.height
    scale = max(1.0, max_pixels / _BUDGET_PIXELS)
    what = f"{image.width}x{image.height} pixels"
    num_bytes = _decoding_bytes(image)
    if num_bytes > scale * _MAX_BYTES:
        raise TooLargeError(f"{what} need {num_bytes} bytes to be decoded, the limit is {scale * _MAX_BYTES:.0f}")
    if image.format == "BMP" and image.info["compression"] in (1, 2) and num_pixels > scale * _MAX_RLE_PIXELS:
        raise TooLargeError(f"{what} with run-length encoding, the limit is {scale * _MAX_RLE_PIXELS:.0f}")
    if image.format in ("JPEG", "MPO"):
        num_scans = len(_SCAN.findall(data))
        if num_scans * num_pixels > scale * _MAX_SCANNED_PIXELS:
            raise TooLargeError(f"{what} in {num_scans} scans")


def _decoding_bytes(image: ImageFile.ImageFile) -> int:
    """About the most memory that decoding takes at one time; Pillow keeps a pixel in 4 bytes."""
    num_pixels = image.width * image.height
    if image.format == "WEBP":
        return 16 * num_pixels  # two canvases of libwebp, a copy of one, and Pillow's own
    if image.format in ("JPEG", "MPO"):
        return (4 + 2 * len(image.getbands())) * num_pixels  # all coefficients, if the file is progressive
    if image.format == "TIFF":
        return 4 * num_pixels + _tiff_block_bytes(_tiff_tags(image))
    return 8 * num_pixels


def _tiff_tags(image: Image.Image) -> Mapping[int, Any]:
    return getattr(image, "tag_v2", {})


def _tiff_block_bytes(tags: Mapping[int, Any]) -> int:
    """The size of a strip or a tile; libtiff decodes them whole, and a tile may be larger than the image."""
    if Tag.TileWidth in tags:
        num_pixels = tags[Tag.TileWidth] * tags[Tag.TileLength]
    else:
        height = tags[Tag.ImageLength]
        num_pixels = tags[Tag.ImageWidth] * min(height, tags.get(Tag.RowsPerStrip, height))
    bits = tags.get(Tag.BitsPerSample, (1,))
    return int(num_pixels * max(bits) * max(len(bits), tags.get(Tag.SamplesPerPixel, 1)) // 8)


def _correct_transparent_colour(image: ImageFile.ImageFile) -> None:
    """Bring the transparent colour that a PNG names to 8 bits; Pillow keeps it as it is, but not the samples."""
    colour = image.info.get("transparency")
    if image.format != "PNG" or not isinstance(colour, int | tuple):
        return
    raw_mode = str(image.tile[0].args)
    if raw_mode in ("L;2", "L;4"):
        image.info["transparency"] = colour * (85 if raw_mode == "L;2" else 17)
    elif "16" in raw_mode:  # there is no telling it from its neighbours
        del image.info["transparency"]


def _rgb_image(image: Image.Image) -> Image.Image:
    orientation = _orientation(image)
    turn = _TURNS.get(orientation)
    has_alpha = image.has_transparency_data and not _is_alpha_unused(image)
    if image.mode == "RGB" and not has_alpha:
        return image if turn is None else image.transpose(turn)
    sideways, backwards = orientation >= 5, orientation in (3, 4, 6, 7)
    tags = _tiff_tags(image)
    largest = 0xFFF if tags.get(Tag.BitsPerSample) == (12,) else 0xFFFF
    # White is 0: Pillow heeds it in 8 bits only.
    is_inverted = image.mode == "I;16" and tags.get(Tag.PhotometricInterpretation) == 0
    converted = Image.new("RGB", image.size[::-1] if sideways else image.size)
    num_rows = max(1, _BAND_PIXELS // image.width)
    for top in range(0, image.height, num_rows):
        bottom = min(top + num_rows, image.height)
        band = image.crop((0, top, image.width, bottom))
        band = _to_rgb(band, largest, has_alpha=has_alpha, is_inverted=is_inverted)
        if turn is not None:  # here, because a whole image would be in memory once more
            band = band.transpose(turn)
        start = image.height - bottom if backwards else top
        converted.paste(band, (start, 0) if sideways else (0, start))
    return converted


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8; of a TIFF 1 once it is loaded, because Pillow turns it itself."""
    with suppress(Exception):  # damaged EXIF is no reason to lose an image that decodes
        orientation = image.getexif().get(Tag.Orientation)
        return int(orientation) if orientation in _TURNS else 1
    return 1


def _is_alpha_unused(image: Image.Image) -> bool:
    """Whether the fourth channel is zero everywhere in a format that leaves open what it is.

    Many programs write 32-bit BMPs whose header names an alpha channel that they never fill, or TIFFs with a fourth
    sample that they say nothing of. In all other formats a picture may be transparent as a whole.
    """
    is_undefined = image.format == "BMP" or (
        image.format == "TIFF" and _tiff_tags(image).get(Tag.ExtraSamples, (0,))[0] not in _ALPHA_SAMPLES
    )
    return is_undefined and image.mode == "RGBA" and image.getchannel("A").getextrema() == (0, 0)


def _to_rgb(image: Image.Image, largest: int, *, has_alpha: bool, is_inverted: bool) -> Image.Image:
    if image.mode.startswith("I"):
        return _scaled_to_8_bit(image, largest, is_inverted=is_inverted)
    if image.mode == "F":
        raise DecodeError("floating-point samples have no defined range")
    if image.mode == "La":
        image = image.convert("LA")  # Pillow knows no way from there to RGBA
    if has_alpha:
        rgba = image.convert("RGBA")
        background = Image.new("RGBA", rgba.size, (*_BACKGROUND, 255))
        return Image.alpha_composite(background, rgba).convert("RGB")
    return image.convert("RGB")


def _scaled_to_8_bit(image: Image.Image, largest: int, *, is_inverted: bool) -> Image.Image:
    samples = np.asarray(image).astype(np.int64)
    if samples.min() < 0 or samples.max() > largest:
        raise DecodeError("integer samples beyond 16 bits have no defined range")
    scaled = ((samples * 255 + largest // 2) // largest).astype(np.uint8)
    return Image.fromarray(255 - scaled if is_inverted else scaled).convert("RGB")
