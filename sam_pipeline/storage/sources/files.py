"""Listing the images of an input: a folder or prefix, a glob, or a single file on any fsspec filesystem."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from glob import has_magic
from typing import Any

from fsspec.utils import glob_translate

from sam_pipeline.clean_text import one_line
from sam_pipeline.errors import InputError, SamPipelineError
from sam_pipeline.storage.filesystem import StorageOptions, absolute_uri, open_filesystem
from sam_pipeline.storage.retrying import retried

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif")


@dataclass(frozen=True, slots=True)
class SourceImage:
    """One object to annotate, as the listing saw it."""

    uri: str
    size_bytes: int | None
    etag: str | None
    """What changes when the object does: an ETag, or a modification time where there is none."""


@dataclass(frozen=True)
class Listing:
    """The images of an input in URI order, and how many other files were passed over."""

    images: list[SourceImage]
    num_skipped: int


def list_images(input_uri: str, options: StorageOptions) -> Listing:
    """List an input once.

    A folder or prefix is walked recursively and files without an image suffix are skipped and counted; a file named
    outright is taken whatever its suffix; hidden files (.DS_Store, ._x.jpg) are skipped. Links to files are followed,
    links to folders below the input are not, since they may form a loop. A name that exists is never taken for a glob.

    Raises:
        InputError: nothing there, no permission, or no image among the files.
        StorageUnavailableError: the storage did not answer for two minutes.
    """
    filesystem, path = open_filesystem(absolute_uri(input_uri), options)
    try:
        # The listing as a whole: half of one is worth nothing.
        found, explicit = retried(lambda: _find(filesystem, path), what=f"list {input_uri}")
    except FileNotFoundError:
        raise InputError(f"input not found: {input_uri}") from None
    except SamPipelineError:
        raise
    except Exception as error:
        raise InputError(f"cannot list {input_uri}: {one_line(error)}") from error
    images = [source_image(filesystem, info) for info in found if explicit or _is_image(info["name"])]
    if not images:
        raise InputError(
            f"no images in {input_uri}: {len(found)} files, none ending in one of {', '.join(IMAGE_SUFFIXES)}"
        )
    images.sort(key=lambda image: image.uri)
    return Listing(images, len(found) - len(images))


def _find(filesystem: Any, path: str) -> tuple[list[Mapping[str, Any]], bool]:
    """Return the files below, matching, or at the path; and whether the user named one file outright."""
    if has_magic(path) and not filesystem.exists(path):
        return _files(filesystem, _glob(filesystem, path)), False
    if "file" in filesystem.protocol:
        info = filesystem.info(path)
        if info["type"] == "file":
            return [info], True
        return _files(filesystem, _walk(filesystem, path)), False
    # On an object store a prefix is no object: ask for what lies below first, and for an object of that name after.
    below = _files(filesystem, filesystem.find(path, detail=True).values())
    if len(below) == 1 and below[0]["name"].rstrip("/") == path.rstrip("/"):
        return below, True
    if not below:
        filesystem.info(path)  # raises FileNotFoundError or PermissionError where an empty prefix would say nothing
    return below, False


def _glob(filesystem: Any, pattern: str) -> Iterator[Mapping[str, Any]]:
    # Not filesystem.glob: it passes in silence over what it cannot list, and an outage would give fewer images.
    matches = re.compile(glob_translate(pattern)).match
    root = re.split(r"[*?[]", pattern, maxsplit=1)[0].rpartition("/")[0] or filesystem.root_marker
    if "**" not in pattern:
        infos = _walk(filesystem, root, max_depth=pattern.count("/") - root.rstrip("/").count("/"))
    elif "file" in filesystem.protocol:
        infos = _walk(filesystem, root)
    else:
        infos = filesystem.find(root, detail=True).values()
    return (info for info in infos if matches(info["name"]))


def _walk(filesystem: Any, root: str, max_depth: float = math.inf) -> Iterator[Mapping[str, Any]]:
    # Not find: on a local disk it passes in silence over folders that it cannot read.
    folders = [(root, 1)]
    while folders:
        folder, depth = folders.pop()
        for info in filesystem.ls(folder, detail=True):
            if info["type"] != "directory":
                yield info
            elif depth < max_depth and info["name"].rstrip("/") != folder.rstrip("/"):
                folders.append((info["name"], depth + 1))


def _files(filesystem: Any, infos: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [
        info
        for info in infos
        # Zero-byte objects whose key ends in a slash are the folder markers of S3 consoles.
        if (info["type"] == "file" or (info.get("islink") and filesystem.isfile(info["name"])))
        and not info["name"].endswith("/")
    ]


def _is_image(name: str) -> bool:
    base = name.rsplit("/", 1)[-1]
    return not base.startswith(".") and base.lower().endswith(IMAGE_SUFFIXES)


def source_image(filesystem: Any, info: Mapping[str, Any]) -> SourceImage:
    """What fsspec's listing or info says of one object."""
    etag = next((info[name] for name in ("ETag", "etag", "mtime", "last_modified") if info.get(name)), None)
    return SourceImage(
        uri=filesystem.unstrip_protocol(info["name"]),
        size_bytes=info.get("size"),
        etag=None if etag is None else str(etag).strip('"'),
    )
