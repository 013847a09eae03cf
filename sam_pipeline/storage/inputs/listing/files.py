"""Listing the files of an input: a folder or prefix, a glob, or a single file on any fsspec filesystem.

Millions of them come in parts, as Arrow, so that what is held is what the caller keeps.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from glob import has_magic
from typing import Any

import pyarrow as pa

from sam_pipeline.errors import InputError
from sam_pipeline.safety.clean_text import is_encodable
from sam_pipeline.storage.inputs.listing.disk_listing import ListingPage, Retry, walk_disk
from sam_pipeline.storage.inputs.listing.passed_over import PassedOver
from sam_pipeline.storage.inputs.listing.path_pattern import PathPattern
from sam_pipeline.storage.inputs.listing.store_listing import etag_of, walk_store
from sam_pipeline.storage.inputs.source_object import SOURCE_SCHEMA, SourceObject, object_of_row
from sam_pipeline.storage.objects.filesystem import StorageOptions, open_filesystem
from sam_pipeline.storage.objects.object_reading import input_errors
from sam_pipeline.storage.objects.retrying import retried

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif")

_ROWS_AT_ONCE = 65_536


class NoFilesError(InputError):
    """The input is there, but holds no file of the kind that was looked for."""


@dataclass(frozen=True)
class Listing:
    """Files of an input, or a part of them, and how many others were passed over."""

    images: pa.Table
    """Of SOURCE_SCHEMA."""
    num_skipped: int


def list_files(
    input_uri: str,
    storage_options: StorageOptions,
    suffixes: tuple[str, ...],
    *,
    what: str = "images",
    left_out: tuple[str, ...] = (),
) -> list[SourceObject]:
    """All files of an input that end in one of the suffixes, in the order of their URIs; see file_images.

    Raises:
        InputError, StorageUnavailableError: see file_images.
    """
    parts = file_images(input_uri, storage_options, suffixes, what=what, left_out=left_out)
    files = [object_of_row(row) for part in parts for row in part.images.to_pylist()]
    return sorted(files, key=lambda file: file.uri)


def file_images(
    input_uri: str,
    storage_options: StorageOptions,
    suffixes: tuple[str, ...] = IMAGE_SUFFIXES,
    *,
    what: str = "images",
    left_out: tuple[str, ...] = (),
    on_other: Callable[[str], None] | None = None,
) -> Iterator[Listing]:
    """List an input once, in parts of some ten thousand files.

    A folder or prefix is walked recursively and files without one of the suffixes are skipped and counted; a file named
    outright is taken whatever its suffix; hidden files (.DS_Store, ._x.jpg) are skipped. Hidden folders, those of
    systems (.git, @eaDir, __MACOSX) and those of Delta tables are passed over, unless the input names them. Links to
    files are followed, links to folders below the input are not, since they may form a loop. Folders that are passed
    over are counted in the log. A name that exists is never taken for a glob.

    Args:
        input_uri: a folder or prefix, a glob, or a file, as absolute_uri makes it or as a listing names it.
        storage_options: of the storage.
        suffixes: of the files to take, in lower case.
        what: is in the files, for the message where there are none.
        left_out: URIs of folders that are no part of the input.
        on_other: called with the name of each file that is skipped; more than once where a request was made again.

    Yields:
        Files in no order, each once.

    Raises:
        InputError: nothing there or no permission; in the end a NoFilesError if there is no such file among the files.
        StorageUnavailableError: the storage did not answer for two minutes.
    """
    filesystem, path = open_filesystem(input_uri, storage_options)
    num_images = num_skipped = 0

    def is_wanted(name: str) -> bool:
        found = _ends_in(name, suffixes)
        if not found and on_other is not None:
            on_other(name)
        return found

    passed_over = PassedOver()
    with input_errors(f"list {input_uri}"):
        try:
            apart = tuple(open_filesystem(uri, storage_options) for uri in left_out)
            pattern = _pattern(filesystem, path, apart, _retry_of(input_uri))
            found = _find(filesystem, pattern, is_wanted, _retry_of(input_uri))
            for part in _merged(found):
                num_images += len(part.files)
                num_skipped += part.num_others
                passed_over.update(part.passed_over)
                yield Listing(_table(filesystem, part.files), part.num_others)
        except FileNotFoundError:
            hint = "; in a pattern there are *, ? and [0-9], but no braces" if "{" in input_uri else ""
            raise InputError(f"input not found: {input_uri}{hint}") from None
    passed_over.log()
    if not num_images:
        raise NoFilesError(
            f"no {what} in {input_uri}: {num_skipped} files, none ending in one of {', '.join(suffixes)}"
        )


def object_of_info(filesystem: Any, info: Mapping[str, Any]) -> SourceObject:
    """What fsspec's listing or info says of one object."""
    return SourceObject(filesystem.unstrip_protocol(info["name"]), info.get("size"), etag_of(info))


def _pattern(filesystem: Any, path: str, left_out: tuple[tuple[Any, str], ...], retry: Retry) -> PathPattern:
    """What to list; left_out are (filesystem, path) of folders."""
    is_local = "file" in filesystem.protocol
    if not is_local and has_magic(path.partition("/")[0]):
        raise ValueError("the name of a bucket must not be a pattern")
    pattern = PathPattern(
        path, is_glob=has_magic(path) and not retry(partial(_exists, filesystem, path), is_first=True)
    )
    folders = [folder.rstrip("/") for other, folder in left_out if other.protocol == filesystem.protocol]
    if is_local:
        # As the walk names them, which follows no link but the one it may begin with.
        root = os.path.realpath(pattern.root or "/").rstrip("/")
        real = [os.path.realpath(folder) for folder in folders]
        folders = [pattern.root.rstrip("/") + folder[len(root) :] for folder in real if folder.startswith(f"{root}/")]
    return replace(pattern, left_out=tuple(folders))


def _find(
    filesystem: Any, pattern: PathPattern, is_wanted: Callable[[str], bool], retry: Retry
) -> Iterator[ListingPage]:
    if "file" not in filesystem.protocol:
        return walk_store(filesystem, pattern, is_wanted, retry)
    if not pattern.is_glob:
        info = retry(partial(filesystem.info, pattern.path))
        if info["type"] == "file":
            return iter([ListingPage([(pattern.path, info["size"], etag_of(info))])])
        if info["type"] != "directory":
            raise ValueError("it is neither a folder nor a regular file")
    return walk_disk(pattern, is_wanted, retry)


def _exists(filesystem: Any, path: str) -> bool:
    # Not filesystem.exists: on some it takes any error for an answer.
    try:
        filesystem.info(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _retry_of(input_uri: str) -> Retry:
    def retry(call: Callable[[], Any], *, is_first: bool = False) -> Any:
        # Each request by itself: a listing of millions takes minutes, and would begin again.
        return retried(call, what=f"list {input_uri}", denied_is_final=is_first)

    return retry


def _ends_in(name: str, suffixes: tuple[str, ...]) -> bool:
    return not name.startswith(".") and name.lower().endswith(suffixes)


def _merged(parts: Iterator[ListingPage]) -> Iterator[ListingPage]:
    """The same in larger parts: a page of S3 has a thousand objects, a folder may have one file."""
    merged = ListingPage()
    for part in parts:
        merged.files += part.files
        merged.num_others += part.num_others
        merged.passed_over.update(part.passed_over)
        if len(merged.files) >= _ROWS_AT_ONCE:
            yield merged
            merged = ListingPage()
    yield merged


def _table(filesystem: Any, files: list[tuple[str, int | None, str | None]]) -> pa.Table:
    columns = {field.name: pa.nulls(len(files), field.type) for field in SOURCE_SCHEMA}
    uris = _uris(filesystem, [name for name, _, _ in files])
    try:
        columns["uri"] = pa.array(uris, pa.string())
    except UnicodeEncodeError:  # on a disk names are bytes
        is_text = [is_encodable(uri) for uri in uris]
        columns["uri"] = pa.array([uri.encode(errors="backslashreplace").decode() for uri in uris], pa.string())
        errors = [None if text else "the name of the file is not UTF-8" for text in is_text]
        columns["error"] = pa.array(errors, pa.string())
    columns["size_bytes"] = pa.array([size for _, size, _ in files], pa.int64())
    columns["etag"] = pa.array([etag for _, _, etag in files], pa.string())
    return pa.table(columns, schema=SOURCE_SCHEMA)


def _uris(filesystem: Any, names: list[str]) -> list[str]:
    if not names:
        return []
    first = filesystem.unstrip_protocol(names[0])
    if not first.endswith(names[0]):
        return [filesystem.unstrip_protocol(name) for name in names]
    start = first.removesuffix(names[0])
    return [start + name for name in names]
