"""Copies of images as they were annotated, for readers that know nothing of EXIF orientation.

Masks are in the frame of the upright image. Of a format's readers some turn an image as its EXIF says and some do not
(Pillow, webdataset); only an image that is upright as it is stored looks the same to all.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Any

from sam_pipeline.exports.batch import Batch
from sam_pipeline.exports.format import Job
from sam_pipeline.exports.places.place import Place
from sam_pipeline.exports.report import Report
from sam_pipeline.results.images import fetch_images
from sam_pipeline.storage.inputs.decoding.image_reading import DecodeError, TooLargeError, decode_image, read_header
from sam_pipeline.storage.inputs.fetching import ChangedError
from sam_pipeline.storage.tables.delta import output_errors

_SUFFIXES = {
    "JPEG": ".jpg",
    "MPO": ".jpg",
    "PNG": ".png",
    "WEBP": ".webp",
    "TIFF": ".tif",
    "BMP": ".bmp",
    "GIF": ".gif",
}
IMAGE_SUFFIXES = (*_SUFFIXES.values(), ".jpeg", ".tiff")
_SAVING: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 95, "subsampling": 0, "optimize": True},
    "WEBP": {"lossless": True},
    "PNG": {},
    "TIFF": {"compression": "tiff_deflate"},
}

_BYTES_AT_ONCE = 64 << 20

_ANY_PIXELS = 2**31
"""The limit on pixels where a run does not say one."""

GONE = "images are gone or changed, and have no copy"
TURNED = "images were turned upright, and compressed anew, because of their EXIF orientation"


@dataclass(frozen=True)
class UprightImage:
    """A file whose pixels are upright as they are stored."""

    data: bytes
    suffix: str
    """Suffix of its format, with a dot."""
    was_turned: bool


def upright_images(job: Job, batch: Batch, report: Report) -> Iterator[UprightImage | None]:
    """The images of a batch, in their order; None for one that is gone, or is not what was annotated.

    The report counts those, and those that were turned. Images of a container that is read in another order wait for
    their turn in a temporary file; only a small one is kept in memory.

    Raises:
        OutputError: the disk of temporary files is full, or cannot be written.
    """
    waiting: dict[int, _Waiting | None] = {}
    turn = 0
    with tempfile.SpooledTemporaryFile(_BYTES_AT_ONCE) as spool:
        for row, image in _as_fetched(job, batch, report):
            if row == turn:
                yield image
                turn += 1
            else:
                waiting[row] = None if image is None else _Waiting.put(image, spool)
            while turn in waiting:
                found = waiting.pop(turn)
                yield None if found is None else found.take(spool)
                turn += 1


@dataclass(frozen=True)
class _Waiting:
    """An image whose bytes lie in a file meanwhile."""

    suffix: str
    was_turned: bool
    offset: int
    num_bytes: int

    @classmethod
    def put(cls, image: UprightImage, spool: IO[bytes]) -> _Waiting:
        with output_errors(tempfile.gettempdir()):
            offset = spool.seek(0, io.SEEK_END)
            spool.write(image.data)
        return cls(image.suffix, image.was_turned, offset, len(image.data))

    def take(self, spool: IO[bytes]) -> UprightImage:
        with output_errors(tempfile.gettempdir()):
            spool.seek(self.offset)
            return UprightImage(spool.read(self.num_bytes), self.suffix, self.was_turned)


def _as_fetched(job: Job, batch: Batch, report: Report) -> Iterator[tuple[int, UprightImage | None]]:
    """The row of each image of a batch, and the image, in the order in which they are read; see upright_images."""
    rows = {image_id: row for row, image_id in enumerate(batch.images["image_id"].to_pylist())}
    sizes_hw, max_pixels = batch.sizes_hw, pixel_limit(job)
    for image_id, data in fetch_images(job.results, list(rows)):
        image = _upright_or_none(data, max_pixels, sizes_hw[rows[image_id]])
        report.warn(GONE, int(image is None))
        report.warn(TURNED, int(image is not None and image.was_turned))
        yield rows[image_id], image


def pixel_limit(job: Job) -> int:
    """The limit on the pixels of an image that the run had."""
    return job.results.settings.get("max_pixels") or _ANY_PIXELS


def _upright_or_none(data: bytes | Exception, max_pixels: int, size_hw: tuple[int, int]) -> UprightImage | None:
    if isinstance(data, Exception):
        return None
    with suppress(DecodeError, TooLargeError, ChangedError):
        return upright_image(data, max_pixels, size_hw=size_hw)
    return None


def copy_upright(
    job: Job, batch: Batch, names: Sequence[str], place: Place, report: Report, *, with_suffix: bool = False
) -> None:
    """Put the images of a batch into the destination, upright, in the order in which they are read.

    Args:
        job: of the export.
        batch: the images.
        names: of the files, (B,).
        place: where the piece is written.
        report: counts what is gone, and what was turned.
        with_suffix: names without the suffix of an image get that of their format.
    """
    held: dict[str, bytes] = {}
    num_bytes = 0
    for row, image in _as_fetched(job, batch, report):
        if image is None:
            continue
        has_suffix = names[row].lower().endswith(IMAGE_SUFFIXES)
        held[names[row] if has_suffix or not with_suffix else names[row] + image.suffix] = image.data
        num_bytes += len(image.data)
        if num_bytes > _BYTES_AT_ONCE:
            place.put_all(held)
            held, num_bytes = {}, 0
    place.put_all(held)


def upright_image(
    data: bytes, max_pixels: int = _ANY_PIXELS, *, size_hw: tuple[int, int] | None = None
) -> UprightImage:
    """A file as it is, or turned upright if its EXIF says that it is not; without that EXIF then.

    A JPEG that is turned is compressed anew, at quality 95.

    Args:
        data: the file.
        max_pixels: limit on width × height.
        size_hw: height and width of the image that was annotated; None takes an image of any size.

    Raises:
        DecodeError, TooLargeError: it cannot be decoded.
        ChangedError: it has another size.
    """
    header = read_header(data, max_pixels=max_pixels)
    if size_hw not in (None, header.size_hw):
        raise ChangedError(f"annotated with a height and width of {size_hw}, now {header.size_hw}")
    kind = header.kind
    if header.orientation == 1:
        return UprightImage(data, _SUFFIXES[kind], False)
    image = decode_image(data, max_pixels=max_pixels)
    kind = "JPEG" if kind == "MPO" else kind if kind in _SAVING else "PNG"
    buffer = io.BytesIO()
    image.save(buffer, kind, **_SAVING[kind])
    return UprightImage(buffer.getvalue(), _SUFFIXES[kind], True)
