"""The images beside their annotations: copies, or links to the files that were annotated."""

from __future__ import annotations

import os

import numpy as np

from sam_pipeline.errors import ConfigError
from sam_pipeline.exports.batch import Batch
from sam_pipeline.exports.format import Job
from sam_pipeline.exports.places.place import Place
from sam_pipeline.exports.places.upright_images import copy_upright
from sam_pipeline.exports.report import Report
from sam_pipeline.storage.objects.filesystem import protocol_of
from sam_pipeline.storage.tables.plan import read_planned

_NO_LINK = "images are gone or changed, and have no link"


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
        image_ids = batch.images["image_id"].to_numpy()
        planned = read_planned(job.results.output, np.sort(image_ids), job.results.storage_options).to_pylist()
        sizes = {image["image_id"]: image["size_bytes"] for image in planned}
        for image_id, uri, target in zip(image_ids.tolist(), batch.images["uri"].to_pylist(), targets, strict=True):
            _link(uri, sizes[image_id], target, place, report)
        return
    copy_upright(job, batch, targets, place, report)


def path_of(uri: str) -> str | None:
    """Where a stored URI is on this machine; None if it is elsewhere. Nothing in it is percent-encoded."""
    return uri.removeprefix("file://") if protocol_of(uri) == "file" else None


def _link(uri: str, size_bytes: int | None, target: str, place: Place, report: Report) -> None:
    """Link to a file that has the size with which it was planned, by which copies are compared too."""
    path = path_of(uri)
    if path is not None and os.path.isfile(path):
        if size_bytes in (None, os.path.getsize(path)):
            place.link(target, path)
        else:
            report.warn(_NO_LINK, 1)
    elif path is not None and not os.path.isfile(path.partition("#")[0]):
        report.warn(_NO_LINK, 1)
    else:
        raise ConfigError(f"{uri} is no file on this machine, so no link can lead to it; use --images copy")
