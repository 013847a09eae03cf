"""Zip archives of images: where each image is, from the directory at the archive's end alone."""

from __future__ import annotations

import stat
import struct
import zipfile
import zlib
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import numpy as np
import pyarrow as pa

from sam_pipeline.safety.clean_text import one_line
from sam_pipeline.storage.inputs.containers import archives
from sam_pipeline.storage.inputs.containers.zip_directory import Entry, ZipDirectory
from sam_pipeline.storage.inputs.source_object import Location, SourceObject, SourceOptions
from sam_pipeline.storage.objects.range_file import ReadAheadFile, StorageFaultError

# PKWARE's APPNOTE, 4.3.7: signature, version, flags, method, time, date, CRC-32, sizes, lengths of name and extra.
_LOCAL_HEADER = struct.Struct("<4s5HLLLHH")
_LOCAL_SIGNATURE = b"PK\x03\x04"
_DESCRIPTOR_SIGNATURE = b"PK\x07\x08"
_MAX_NAME_AND_EXTRA_BYTES = 2 * 0xFFFF
_MAX_DESCRIPTOR_BYTES = 24
# Deflate adds a few bytes to data that it cannot make smaller. More would be held in memory for nothing.
_MAX_GROWTH_BYTES = 2**10
_IN_ZIP64_EXTRA = 0xFFFFFFFF

_MAX_SIZE_BYTES = 2**63 - 1  # in a plan

_ENCRYPTED = 1 << 0 | 1 << 6 | 1 << 13
_HAS_DESCRIPTOR = 1 << 3

_OTHER_METHODS = {9: "deflate64", 12: "bzip2", 14: "lzma", 93: "zstd", 95: "xz"}


def zip_images(
    containers: Iterable[SourceObject], source_options: SourceOptions, on_skipped: Callable[[int], None] | None = None
) -> Iterator[pa.Table]:
    """Index zip archives: one row for each image among their members, in order of archives and their directories.

    Members count as images by the suffix of their names; other files and hidden ones are skipped, hidden folders and
    links are passed over. Where members of an archive share a name, the second is called `name~2`, and so on.

    Nothing that an archive holds raises an error. A member that is encrypted, compressed otherwise than by deflate, or
    overlaps another becomes a row with `error`. A file that is damaged, cut, or no zip archive at all gives one row
    with `error` and the URI `container#`.

    Args:
        containers: the archives as listed.
        source_options: storage is used.
        on_skipped: called once for each archive with the number of files in it that were skipped.

    Returns:
        Tables of SOURCE_SCHEMA with up to 16,384 rows.

    Raises:
        InputError: an archive cannot be read.
        StorageUnavailableError: the storage did not answer for two minutes.
        MemoryError: there is not enough memory, which says nothing of an archive.
    """
    return archives.tables_in_order(containers, partial(_index, source_options=source_options), on_skipped)


def _index(container: SourceObject, source_options: SourceOptions) -> Iterator[archives.Member]:
    """What is in an archive."""
    try:
        directory = ZipDirectory(ReadAheadFile(container.uri, container.size_bytes, source_options.storage))
        starts, repeated = _survey(directory)
    except zipfile.BadZipFile as error:
        yield archives.broken(container, f"not a zip archive, or a damaged one ({one_line(error)})")
        return
    seen: Counter[str] = Counter()
    for entry, is_repeated in _again(directory, repeated):
        if entry.name.endswith("/"):
            continue
        if (hidden := archives.in_hidden_folder(container, entry.name)) is not None:
            yield hidden
        elif not archives.is_image(entry.name):
            yield None
        elif stat.S_ISLNK(entry.attributes >> 16):
            yield "link", f"{container.uri}#{entry.name}"
        else:
            yield _image(container, archives.unique(entry.name, seen) if is_repeated else entry.name, entry, starts)


def _survey(directory: ZipDirectory) -> tuple[array[int], bytes]:
    """Read a directory once, so that the rows can be made one by one when it is read again.

    Returns:
        The offsets of every local header and, last, of the directory, ascending; and for each member a byte: 1 if
        another may have its name, else 0. 64-bit hashes are compared, since millions of names take much memory.
    """
    offsets, hashes = array("q", [directory.start]), array("q")
    for entry in directory.entries():
        hashes.append(hash(entry.name))
        # A damaged entry may name an offset before the archive or behind the directory, where no member ends either.
        if 0 <= entry.offset < directory.start:
            offsets.append(entry.offset)
    starts = array("q", np.unique(np.frombuffer(offsets, np.int64)).tobytes())
    ordered = np.sort(np.frombuffer(hashes, np.int64))
    repeated = np.isin(np.frombuffer(hashes, np.int64), ordered[1:][ordered[1:] == ordered[:-1]])
    return starts, repeated.tobytes()


def _again(directory: ZipDirectory, repeated: bytes) -> Iterator[tuple[Entry, int]]:
    """Read a directory that could be read before."""
    try:
        yield from zip(directory.entries(), repeated, strict=True)
    except (zipfile.BadZipFile, ValueError) as error:
        raise StorageFaultError(ValueError("it changed while it was read")) from error


def _image(container: SourceObject, name: str, entry: Entry, starts: array[int]) -> SourceObject:
    """A row for a member.

    Args:
        container: the archive.
        name: of the member, unique.
        entry: as in the directory.
        starts: offsets of every local header and, last, of the directory, ascending.
    """
    uri = f"{container.uri}#{name}"
    # Only the local header itself says how long its name and extra field are. But the next header mostly follows the
    # data at once; otherwise deleted members or foreign data lie between.
    least_bytes = _LOCAL_HEADER.size + entry.packed_bytes
    length = 0
    if 0 <= entry.offset < starts[-1]:
        following = starts[bisect_right(starts, entry.offset)]
        length = min(following - entry.offset, least_bytes + _MAX_NAME_AND_EXTRA_BYTES + _MAX_DESCRIPTOR_BYTES)
    error = None
    if entry.flags & _ENCRYPTED:
        error = "encrypted member of a zip archive: not supported"
    elif entry.method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        method = _OTHER_METHODS.get(entry.method, f"method {entry.method}")
        error = f"member of a zip archive compressed with {method}: not supported, only deflate is"
    elif entry.packed_bytes > 2 * entry.size_bytes + _MAX_GROWTH_BYTES:
        error = f"damaged zip archive: {entry.packed_bytes} bytes for a member of {entry.size_bytes}"
    elif length < least_bytes:
        error = f"damaged zip archive: {least_bytes} bytes of a member where there are {length}"
    elif entry.size_bytes > _MAX_SIZE_BYTES:
        error = f"damaged zip archive: a member of {entry.size_bytes} bytes"
    size_bytes = min(entry.size_bytes, _MAX_SIZE_BYTES)
    if error is not None:
        return SourceObject(uri, size_bytes, container.etag, error=error)
    return SourceObject(uri, size_bytes, container.etag, Location(container.uri, "zip", entry.offset, length))


def unzip_member(data: bytes, size_bytes: int) -> bytes:
    """Take a member out of what a Location of kind "zip" says: its local header, its data, and perhaps more.

    Args:
        data: the bytes of the archive from the local header on.
        size_bytes: of the member, as in the plan. Never more than one byte above it is inflated.

    Returns:
        The member's bytes, size_bytes of them, whose CRC-32 is right.

    Raises:
        ValueError: no local header there, another size, a wrong CRC-32, damaged or cut data, encryption, or another
            compression.
    """
    if len(data) < _LOCAL_HEADER.size or not data.startswith(_LOCAL_SIGNATURE):
        raise ValueError("no member of a zip archive begins here; the archive has changed or is damaged")
    _, _, flags, method, _, _, crc, _, header_size_bytes, name_bytes, extra_bytes = _LOCAL_HEADER.unpack_from(data)
    if flags & _ENCRYPTED:
        raise ValueError("encrypted member of a zip archive")
    sizes = (size_bytes, _IN_ZIP64_EXTRA, *([0] if flags & _HAS_DESCRIPTOR else []))
    if header_size_bytes not in sizes:
        raise ValueError(f"member of {header_size_bytes} bytes, planned with {size_bytes}")
    packed = memoryview(data)[_LOCAL_HEADER.size + name_bytes + extra_bytes :]
    if method == zipfile.ZIP_STORED:
        content, rest = bytes(packed[:size_bytes]), bytes(packed[size_bytes : size_bytes + _MAX_DESCRIPTOR_BYTES])
    elif method == zipfile.ZIP_DEFLATED:
        content, rest = _inflated(packed, size_bytes)
    else:
        raise ValueError(f"member of a zip archive compressed with method {method}")
    if len(content) != size_bytes:
        raise ValueError(f"only {len(content)} bytes of a member of {size_bytes}")
    # A writer that could not seek back leaves 0 in the header and puts the CRC-32 behind the data.
    if flags & _HAS_DESCRIPTOR and crc == 0:
        crc = int.from_bytes(rest.removeprefix(_DESCRIPTOR_SIGNATURE)[:4], "little")
    if (found := zlib.crc32(content)) != crc:
        raise ValueError(f"CRC-32 is {found:08x}, the archive says {crc:08x}")
    return content


def _inflated(packed: memoryview, size_bytes: int) -> tuple[bytes, bytes]:
    """Inflate no more than size_bytes + 1 bytes; and what follows the compressed data."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        content = inflater.decompress(packed, size_bytes + 1)
    except zlib.error as error:
        raise ValueError(f"damaged data: {error}") from None
    if len(content) > size_bytes:
        raise ValueError(f"more than the {size_bytes} bytes that the archive says")
    return content, inflater.unused_data
