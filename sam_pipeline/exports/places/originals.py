"""The images beside their annotations: copies, or links to the files that were annotated."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from sam_pipeline.errors import ConfigError
from sam_pipeline.exports.batch import Batch
from sam_pipeline.exports.format import Job
from sam_pipeline.exports.places.place import Place
from sam_pipeline.exports.places.upright_images import copy_upright, pixel_limit
from sam_pipeline.exports.report import Report
from sam_pipeline.safety.regular_files import open_regular
from sam_pipeline.storage.inputs.decoding.image_reading import DecodeError, TooLargeError, read_header
from sam_pipeline.storage.inputs.name_forms import other_forms
from sam_pipeline.storage.inputs.source_object import MAX_IMAGE_BYTES
from sam_pipeline.storage.objects.filesystem import protocol_of
from sam_pipeline.storage.tables.plan import read_planned

_NO_LINK = "images are gone or changed, and have no link"


@dataclass(frozen=True)
class Original:
    """Where an image was annotated."""

    uri: str
    path: str | None
    """Path of the file on this machine; None if it is elsewhere, or gone."""
    size_bytes: int | None
    """As planned; None where only reading it would have told."""


def place_images(job: Job, batch: Batch, folder: str, place: Place, report: Report) -> None:
    """Put the images of a batch into a folder, under their file names; does nothing unless settings.images says so.

    A copy stands upright, as the masks do, whether its reader looks at EXIF or not; a link leads to the file as it is.
    An image that is gone, or has another size than the one that was annotated, is counted.

    Args:
        job: of the export.
        batch: the images.
        folder: below the destination, without a slash at its end; empty for the destination itself.
        place: where the piece is written.
        report: counts what is gone or changed.

    Raises:
        ConfigError: a link to what is no file on this machine.
    """
    if job.settings.images == "none":
        return
    targets = [f"{folder}/{name}" if folder else name for name in batch.file_names]
    place.announce(targets)
    if job.settings.images == "symlink":
        max_pixels = pixel_limit(job)
        for original, size_hw, target in zip(originals(job, batch), batch.sizes_hw, targets, strict=True):
            _link(original, size_hw, max_pixels, target, place, report)
        return
    copy_upright(job, batch, targets, place, report)


def originals(job: Job, batch: Batch) -> list[Original]:
    """Where the images of a batch were annotated, (B,); by any name by which the reader would have found them."""
    uris = batch.images["uri"].to_pylist()
    if all(path_of(uri) is None for uri in uris):  # then the plan need not be read
        return [Original(uri, None, None) for uri in uris]
    image_ids = batch.images["image_id"].to_numpy()
    planned = read_planned(job.results.output, np.sort(image_ids), job.results.storage_options).to_pylist()
    sizes = {image["image_id"]: image["size_bytes"] for image in planned}
    return [
        Original(uri, _file_of(uri, sizes[image_id]), sizes[image_id])
        for image_id, uri in zip(image_ids.tolist(), uris, strict=True)
    ]


def path_of(uri: str) -> str | None:
    """Where a stored URI is on this machine; None if it is elsewhere. Nothing in it is percent-encoded."""
    return uri.removeprefix("file://") if protocol_of(uri) == "file" else None


def _file_of(uri: str, size_bytes: int | None) -> str | None:
    """The file that a URI names; of a list, which says no sizes, also one that another form of the name names."""
    forms = (uri,) if size_bytes is not None else (uri, *other_forms(uri))
    return next((path for path in map(path_of, forms) if path is not None and os.path.isfile(path)), None)


def _link(
    original: Original, size_hw: tuple[int, int], max_pixels: int, target: str, place: Place, report: Report
) -> None:
    """Link to a file that is still the one that was annotated, as far as its size tells."""
    path = path_of(original.uri)
    if original.path is not None:
        if _is_unchanged(original.path, original.size_bytes, size_hw, max_pixels):
            place.link(target, original.path)
        else:
            report.warn(_NO_LINK, 1)
    elif path is not None and not os.path.isfile(path.partition("#")[0]):
        report.warn(_NO_LINK, 1)
    else:
        raise ConfigError(f"{original.uri} is no file on this machine, so no link can lead to it; use --images copy")


def _is_unchanged(path: str, size_bytes: int | None, size_hw: tuple[int, int], max_pixels: int) -> bool:
    """Whether a file has as many bytes as were planned, or where none were, as many pixels as were annotated."""
    if size_bytes is not None:
        return os.path.getsize(path) == size_bytes
    with suppress(OSError, DecodeError, TooLargeError), open_regular(path) as file:
        if os.fstat(file.fileno()).st_size <= MAX_IMAGE_BYTES:
            return read_header(file.read(), max_pixels=max_pixels).size_hw == size_hw
    return False
