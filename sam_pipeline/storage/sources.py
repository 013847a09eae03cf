"""Listing the images of an input: a folder or prefix, a glob, or a single file on any fsspec filesystem."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sam_pipeline.errors import InputError
from sam_pipeline.storage.filesystem import StorageOptions, absolute_uri, one_line, open_filesystem

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
    """
    filesystem, path = open_filesystem(absolute_uri(input_uri), options)
    try:
        found, explicit = _find(filesystem, path)
    except FileNotFoundError:
        raise InputError(f"input not found: {input_uri}") from None
    except Exception as error:
        raise InputError(f"cannot list {input_uri}: {one_line(error)}") from error
    images = [_source_image(filesystem, info) for info in found if explicit or _is_image(info["name"])]
    if not images:
        raise InputError(
            f"no images in {input_uri}: {len(found)} files, none ending in one of {', '.join(IMAGE_SUFFIXES)}"
        )
    images.sort(key=lambda image: image.uri)
    return Listing(images, len(found) - len(images))


def _find(filesystem: Any, path: str) -> tuple[list[Mapping[str, Any]], bool]:
    """Return the files below, matching, or at the path; and whether the user named one file outright."""
    if any(character in path for character in "*?[") and not filesystem.exists(path):
        return _files(filesystem, filesystem.glob(path, detail=True).values()), False
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


def _walk(filesystem: Any, folder: str) -> Iterator[Mapping[str, Any]]:
    # Not find: it passes in silence over folders that it cannot read.
    folders = [folder]
    while folders:
        for info in filesystem.ls(folders.pop(), detail=True):
            if info["type"] == "directory":
                folders.append(info["name"])
            else:
                yield info


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


def _source_image(filesystem: Any, info: Mapping[str, Any]) -> SourceImage:
    etag = next((info[name] for name in ("ETag", "etag", "mtime", "last_modified") if info.get(name)), None)
    return SourceImage(
        uri=filesystem.unstrip_protocol(info["name"]),
        size_bytes=info.get("size"),
        etag=None if etag is None else str(etag).strip('"'),
    )
