"""The probe: an image that could be read when a run began, by which an outage is told from a bad image."""

from __future__ import annotations

import os
import platform
from contextlib import suppress

from sam_pipeline.errors import InputError
from sam_pipeline.safety.clean_text import one_line
from sam_pipeline.storage.objects.filesystem import StorageOptions, open_filesystem, protocol_of
from sam_pipeline.storage.objects.retrying import RANGE_NOT_SATISFIABLE, http_status, is_denied, retried


def read_probe(uri: str, storage_options: StorageOptions) -> None:
    """Read one byte of an object, by GET: the answer to a HEAD would not say what is wrong."""
    filesystem, path = open_filesystem(uri, storage_options)
    try:
        filesystem.cat_file(path, start=0, end=1)
    except OSError as error:
        if http_status(error) != RANGE_NOT_SATISFIABLE:  # an empty object, which is as good
            raise


def wait_for_probe(probe_uri: str, storage_options: StorageOptions) -> bool:
    """Wait until the probe can be read; whether the first attempt was enough.

    Raises:
        InputError: access to it is denied.
        StorageUnavailableError: it did not answer for two minutes.
    """
    attempts = 0

    def attempt() -> None:
        nonlocal attempts
        attempts += 1
        read_probe(probe_uri, storage_options)

    try:
        retried(attempt, what=f"read {probe_uri}", denied_is_final=False)
    except FileNotFoundError:
        pass  # deleted since: the storage answers, and lets us in
    except Exception as error:
        if not is_denied(error):
            raise
        raise InputError(
            f"access was denied to {probe_uri}, which could be read before ({one_line(error)}); "
            "renew the credentials; the same command resumes"
        ) from error
    return attempts == 1


def check_disk(probe_uri: str | None) -> None:
    """Refuse to take images for gone where their disk is: of a machine that joined, or that has lost its mount.

    Raises:
        InputError: the probe's folder is not there on this machine, or is empty, as a mount point is.
    """
    if probe_uri is None or protocol_of(probe_uri) != "file":
        return
    folder = os.path.dirname(probe_uri.removeprefix("file://"))
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        if any(entries):
            return
    raise InputError(
        f"{platform.node()} does not see the images in {folder}, which could be read when the run began: mount them "
        "there on every machine; the same command resumes"
    )
