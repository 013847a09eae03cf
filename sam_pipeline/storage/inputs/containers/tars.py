"""Tar archives of images, as WebDataset makes them: where each image's bytes are, from the headers alone.

A tar archive without compression is skipped through: of its data little more than the headers is read. A compressed one
can only be read from its beginning, now for the index and later for the images.
"""

from __future__ import annotations

import bz2
import gzip
import importlib
import json
import logging
import lzma
import re
import tarfile
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple

import pyarrow as pa

from sam_pipeline.errors import InputError, SamPipelineError, StorageUnavailableError
from sam_pipeline.safety.clean_text import one_line
from sam_pipeline.storage.inputs.containers.archives import (
    Member,
    broken,
    in_hidden_folder,
    is_image,
    tables_in_order,
    unique,
)
from sam_pipeline.storage.inputs.containers.member_places import MemberPlaces
from sam_pipeline.storage.inputs.kept_values import json_text
from sam_pipeline.storage.inputs.listing.passed_over import Kind
from sam_pipeline.storage.inputs.source_object import Location, LocationKind, SourceObject, SourceOptions
from sam_pipeline.storage.objects.decompression import Decompressed
from sam_pipeline.storage.objects.filesystem import StorageOptions
from sam_pipeline.storage.objects.range_file import ReadAheadFile, StorageFaultError
from sam_pipeline.storage.objects.retrying import is_denied, is_transient

MAX_KEPT_BYTES = 2**20
"""Larger siblings of an image are not kept with it. Annotations of SA-1B, 100 masks an image, take some 100 KB."""

# A member's headers: long names and PAX records. tarfile would take gigabytes.
_MAX_HEADER_BYTES = 2**20
_MAX_PADDING_BYTES = 2**16

logger = logging.getLogger(__name__)

_BZIP2 = re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)")


def tar_images(
    containers: Iterable[SourceObject], source_options: SourceOptions, on_skipped: Callable[[int], None] | None = None
) -> Iterator[pa.Table]:
    """Index tar archives: one row for each image among their members, in order of archives and members.

    Members count as images by the suffix of their names; other files and hidden ones are skipped, and hidden folders
    are passed over. A hard link to a member before it is an image with that member's bytes; of symbolic links and all
    other hard links the log tells how many were not followed. Whether an archive is compressed is seen in its first
    bytes, not in its name. Names are kept as they are, since nothing is unpacked; bytes of them that are not UTF-8
    become backslash escapes. Where members of an archive share a name, the second is called `name~2`, and so on.

    WebDataset puts files with the name of an image beside it (`0001.jpg`, `0001.json`, `0001.cls` in succession). Those
    whose extension is in `keep` go into the image's `extra`: JSON parsed, anything else as text. A file
    that is larger than 1 MiB, not UTF-8 or not JSON is null there; the log counts these, with the reason for one.

    Nothing that an archive holds raises an error. A sparse file becomes a row with `error`. Where an archive is
    damaged, cut, or no tar archive at all, the members before the damage are followed by one row with `error` and the
    URI `container#`.

    Args:
        containers: the archives as listed.
        source_options: storage and keep are used.
        on_skipped: called once for each archive with the number of files in it that were skipped.

    Yields:
        Tables of SOURCE_SCHEMA with up to 16,384 rows.

    Raises:
        InputError: an archive cannot be read, or its compression (zstd) is not in this Python.
        StorageUnavailableError: the storage did not answer for two minutes.
        MemoryError: there is not enough memory, which says nothing of an archive.
    """
    extensions: set[str] = set()
    yield from tables_in_order(
        containers, partial(_index, source_options=source_options, extensions=extensions), on_skipped
    )
    for name in source_options.images.keep:
        if name.lower() not in extensions:
            logger.warning("no image has a file .%s beside it that could be kept", name)


def read_tar_members(
    container: str, offsets: Iterable[int], storage_options: StorageOptions, *, max_bytes: int = 2**30
) -> Iterator[tuple[int, bytes | Exception]]:
    """Stream an archive once, up to the last member wanted.

    Args:
        container: URI of the archive.
        offsets: of members; see Location.offset.
        storage_options: of the storage.
        max_bytes: larger members are not read; they yield a ValueError.

    Yields:
        Each offset once, in ascending order, with the member's bytes or what is wrong with it: ValueError where the
        archive ends before it, is damaged, or has no regular file there; FileNotFoundError where the archive is gone.

    Raises:
        Exception: the storage's own error: access is denied (retrying.is_denied), or, after half a minute of attempts,
            the last transient one (is_transient).
        InputError: the compression (zstd) is not in this Python.
        MemoryError: there is not enough memory, which says nothing of the archive.
    """
    wanted = deque(sorted(set(offsets)))
    if not wanted:
        return
    num_members = 0
    try:
        stream, _ = _opened(ReadAheadFile(container, None, storage_options, limit_s=30))
        for offset, member in enumerate(_members(stream)):
            if offset == wanted[0]:
                answer = _data(stream, member, max_bytes)
                wanted.popleft()
                yield offset, answer
                if not wanted:
                    return
            num_members = offset + 1
        failure: Exception = ValueError(f"archive has only {num_members} members")
    except StorageFaultError as fault:
        failure = fault.error
    except (SamPipelineError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001  tarfile and decompressors raise a dozen types at damaged data
        failure = ValueError(_early_end(num_members, error))
    if isinstance(failure, StorageUnavailableError) and isinstance(failure.__cause__, Exception):
        failure = failure.__cause__  # the caller may know whether storage answers for other objects
    if isinstance(failure, SamPipelineError) or is_transient(failure) or is_denied(failure):
        raise failure
    for offset in wanted:
        yield offset, failure


def _data(stream: Any, member: tarfile.TarInfo, max_bytes: int) -> bytes | ValueError:
    if not member.isreg() or member.issparse():
        return ValueError("the member is no plain file; its archive has changed since it was planned")
    if member.size > max_bytes:
        return ValueError(f"{member.size} bytes, the limit is {max_bytes}")
    return _read(stream, member)


class _Entry(NamedTuple):
    """A file in an archive: an image, a sibling that is kept, or (neither) one that is skipped."""

    sample: object
    """What images have in common with their siblings."""
    image: SourceObject | None
    kept: Mapping[str, str]
    """A sibling's content as JSON, by its extension; null where it cannot be kept."""
    passed_over: tuple[Kind, str] | None = None
    """What else there is to say of it."""


def _index(container: SourceObject, source_options: SourceOptions, extensions: set[str]) -> Iterator[Member]:
    """What is in an archive; the extensions of what is kept join the others."""
    for _, group in groupby(_entries(container, source_options), key=lambda entry: entry.sample):
        members: list[Member] = []
        kept: dict[str, str] = {}
        for entry in group:  # siblings come before and after the image
            kept |= entry.kept
            if entry.image is not None or entry.passed_over is not None or not entry.kept:
                members.append(entry.passed_over if entry.image is None else entry.image)
        extensions.update(kept)
        extra = "{" + ", ".join(f"{json_text(name)}: {value}" for name, value in kept.items()) + "}" if kept else None
        for member in members:
            yield replace(member, extra=extra) if isinstance(member, SourceObject) else member


def _entries(container: SourceObject, source_options: SourceOptions) -> Iterator[_Entry]:
    keep = {name.lower() for name in source_options.images.keep}
    seen: Counter[str] = Counter()
    places = MemberPlaces()
    num_members = 0
    is_tar = False
    try:
        stream, kind = _opened(ReadAheadFile(container.uri, container.size_bytes, source_options.storage))
        for offset, member in enumerate(_members(stream)):
            is_tar = True
            folder, _, base = member.name.rpartition("/")
            stem, _, extension = base.partition(".")
            sample = (folder, stem) if keep else offset
            is_plain = member.isreg() and not member.issparse()
            place = None
            if is_plain:
                place = offset if kind == "tar" else member.offset_data, member.size
            elif member.islnk():
                place = places.find(member.linkname)
            if place is not None:
                places.add(member.name, *place)
            kept: Mapping[str, str] = {}
            image = None
            passed_over = in_hidden_folder(container, member.name)
            if passed_over is not None:
                pass
            elif is_image(member.name) and (member.isreg() or place is not None):
                location = None if place is None else Location(container.uri, kind, *place)
                image = _image(container, unique(member.name, seen), member.size, location)
            elif is_image(member.name) and (member.islnk() or member.issym()):
                passed_over = "link", f"{container.uri}#{member.name}"
            elif is_plain and extension.lower() in keep:
                content, why = _kept(extension.lower(), stream, member)
                kept = {extension.lower(): content}
                passed_over = None if why is None else ("not kept", f"{container.uri}#{member.name} ({why})")
            elif member.islnk() and extension.lower() in keep:
                passed_over = "not kept", f"{container.uri}#{member.name} (a hard link)"
            if is_plain:
                _check_data(stream, member)
            num_members += 1
            if not member.isdir():
                yield _Entry(sample, image, kept, passed_over)
    except (StorageFaultError, SamPipelineError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001  tarfile and decompressors raise a dozen types at damaged data
        why = _early_end(num_members, error) if is_tar else f"not a tar archive ({one_line(error)})"
        yield _Entry(None, broken(container, why), {})


def _early_end(num_members: int, error: Exception) -> str:
    return f"archive ends early after {num_members} members ({one_line(error)})"


def _image(container: SourceObject, name: str, size_bytes: int, location: Location | None) -> SourceObject:
    uri = f"{container.uri}#{name}"
    if location is None:
        return SourceObject(uri, size_bytes, container.etag, error="sparse file in a tar archive: not supported")
    return SourceObject(uri, location.length, container.etag, location)


def _kept(extension: str, stream: Any, member: tarfile.TarInfo) -> tuple[str, str | None]:
    """A sibling's content as JSON; or null, and why it cannot be kept."""
    if member.size > MAX_KEPT_BYTES:
        return "null", f"{member.size} bytes, the limit is {MAX_KEPT_BYTES}"
    content = _read(stream, member)
    try:
        text = content.decode("utf-8-sig")
    except ValueError:
        return "null", "not UTF-8"
    try:
        return json_text(json.loads(text) if extension.endswith("json") else text), None
    except (ValueError, RecursionError):
        return "null", "not JSON"


class _StrictHeader(tarfile.TarInfo):
    """A header that is cut or damaged raises; tarfile takes it for the end of the archive in most places."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _StrictHeader:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if len(buf) == tarfile.BLOCKSIZE and not any(buf):
                raise  # the end marker
            raise tarfile.ReadError(str(error) if buf else "no end marker") from None


class _Headers:
    """The file that tarfile reads headers from, with a limit on what it may read before the next member."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.bytes_left = _MAX_HEADER_BYTES

    def read(self, size: int) -> bytes:
        self.bytes_left -= size
        if self.bytes_left < 0:
            raise tarfile.ReadError(f"a member with headers of more than {_MAX_HEADER_BYTES} bytes")
        data: bytes = self._stream.read(size)
        return data

    def seek(self, offset: int) -> None:
        self._stream.seek(offset)

    def tell(self) -> int:
        offset: int = self._stream.tell()
        return offset


def _members(stream: Any) -> Iterator[tarfile.TarInfo]:
    """Every member, without going back in the stream, so that it may be compressed.

    Raises:
        Exception: of any type, where the archive is damaged or ends without its end marker.
    """
    headers: Any = _Headers(stream)
    # Arrow holds no surrogates, which tarfile makes by default of bytes that are no UTF-8.
    archive: Any = tarfile.TarFile(fileobj=headers, tarinfo=_StrictHeader, encoding="utf-8", errors="backslashreplace")
    while (member := archive.next()) is not None:
        archive.members.clear()  # tarfile would keep them all
        if member.size < 0 or archive.offset < member.offset_data:
            raise tarfile.ReadError("negative size")  # would lead back, and round for ever
        yield member
        headers.bytes_left = _MAX_HEADER_BYTES
    if stream.read(_MAX_PADDING_BYTES).strip(b"\0"):
        raise tarfile.ReadError("more data follow its end marker")


def _read(stream: Any, member: tarfile.TarInfo) -> bytes:
    stream.seek(member.offset_data)
    data: bytes = stream.read(member.size)
    if len(data) < member.size:
        raise tarfile.ReadError("unexpected end of data")
    return data


def _check_data(stream: Any, member: tarfile.TarInfo) -> None:
    """Raise tarfile.ReadError unless the member's data are all there."""
    end = member.offset_data + member.size
    if stream.seek(end) < end:
        raise tarfile.ReadError("unexpected end of data")


def _opened(file: ReadAheadFile) -> tuple[Any, LocationKind]:
    """The archive without its compression; and "tar" if it had one, else "range"."""
    start = file.read(16)
    file.seek(0)
    source: Any = file
    if start.startswith(b"\x1f\x8b\x08"):
        stream: Any = gzip.GzipFile(fileobj=source)
    elif _BZIP2.match(start):
        stream = bz2.BZ2File(source)
    elif start.startswith(b"\xfd7zXZ\0"):
        stream = lzma.LZMAFile(source)  # noqa: SIM115  as long as the file
    elif start.startswith(b"\x28\xb5\x2f\xfd"):
        try:
            stream = importlib.import_module("compression.zstd").ZstdFile(source)
        except ImportError:
            raise InputError(
                f"{file.uri} is compressed with zstd, which this Python does not support; use gzip, bzip2, xz or none"
            ) from None
    else:
        return source, "range"
    return Decompressed(stream, source), "tar"
