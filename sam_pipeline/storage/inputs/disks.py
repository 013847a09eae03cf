"""Images on a disk that a machine may not see: one that joined without its mount, or has lost it."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable

from sam_pipeline.errors import InputError
from sam_pipeline.storage.inputs.source_object import SourceObject
from sam_pipeline.storage.objects.filesystem import protocol_of


def common_folder(images: Iterable[SourceObject]) -> str | None:
    """The folder on a disk that holds some images; None if they are elsewhere, or have no folder in common."""
    uris = [image.location.container if image.location else image.uri for image in images if image.error is None]
    if not uris or any(protocol_of(uri) != "file" for uri in uris):
        return None
    folder = os.path.commonpath([os.path.dirname(uri.removeprefix("file://")) for uri in uris])
    return None if folder == "/" else folder


def check_seen(folder: str) -> None:
    """Check that this machine sees the folder of the images: if it does not, an image that is not found is not gone.

    Raises:
        InputError: the folder is not there, or is empty, as a mount point is.
    """
    try:
        with os.scandir(folder) as entries:
            if any(entries):
                return
        what = "it is empty"
    except PermissionError:
        return  # it is there
    except OSError as error:  # a dead mount gives one of many
        what = str(error.strerror)
    raise InputError(
        f"{platform.node()} does not see {folder}, which held the images when the run began ({what}); mount it on "
        "every machine; the same command resumes"
    )
