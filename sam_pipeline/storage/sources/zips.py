"""Zip archives of images: where each image is, from the directory at the archive's end alone."""

from __future__ import annotations

import stat
import struct
import threading
import zipfile
import zlib
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from functools import partial
from typing import Any

import pyarrow as pa

from sam_pipeline.clean_text import one_line
from sam_pipeline.storage.sources.archives import Member, broken, in_hidden_folder, is_image, tables_in_order, unique
from sam_pipeline.storage.sources.range_file import RangeFile, StorageFaultError
from sam_pipeline.storage.sources.source_image import Location, SourceImage
from sam_pipeline.storage.sources.source_options import SourceOptions

# Read in one request: the end record, the longest comment, and all of a small archive's directory.
_TAIL_BYTES = 2**17

# PKWARE's APPNOTE, 4.3.7: signature, version, flags, method, time, date, CRC-32, sizes, lengths of name and extra.
_LOCAL_HEADER = struct.Struct("<4s5HLLLHH")
# 4.3.16: signature, numbers of disks and of entries, size and offset of the directory, length of a comment.
_END_RECORD = struct.Struct("<4s4HLLH")
_END_SIGNATURE = b"PK\x05\x06"
_LOCAL_SIGNATURE = b"PK\x03\x04"
_DESCRIPTOR_SIGNATURE = b"PK\x07\x08"
_MAX_NAME_AND_EXTRA_BYTES = 2 * 0xFFFF
_MAX_DESCRIPTOR_BYTES = 24
# Deflate adds a few bytes to data that it cannot make smaller. More would be held in memory for nothing.
_MAX_GROWTH_BYTES = 2**10
_IN_ZIP64_EXTRA = 0xFFFFFFFF

_LARGE_DIRECTORY_BYTES = 2**24
_LARGE_DIRECTORY = threading.Lock()

_ENCRYPTED = 1 << 0 | 1 << 6 | 1 << 13
_HAS_DESCRIPTOR = 1 << 3

_OTHER_METHODS = {9: "deflate64", 12: "bzip2", 14: "lzma", 93: "zstd", 95: "xz"}


def zip_images(
    containers: Iterable[SourceImage], options: SourceOptions, on_skipped: Callable[[int], None] | None = None
) -> Iterator[pa.Table]:
    """Index zip archives: one row for each image among their members, in order of archives and their directories.

    Members count as images by the suffix of their names; other files, hidden ones and links are skipped, and hidden
    folders are passed over. Of members with one name in an archive the second is called `name~2`, and so on.

    What an archive holds never raises: members that are encrypted, compressed otherwise than by deflate, or that lie
    over one another become rows with `error`; an archive that is damaged, cut or none gives one row with `error` and
    the URI `container#`.

    Args:
        containers: the archives as listed.
        options: storage is used.
        on_skipped: called once for each archive with the number of files in it that were skipped.

    Returns:
        Tables of SOURCE_SCHEMA with up to 16,384 rows.

    Raises:
        InputError: an archive cannot be read.
        StorageUnavailableError: the storage did not answer for two minutes.
        MemoryError: there is not enough memory, which says nothing of an archive.
    """
    return tables_in_order(containers, partial(_index, options=options), on_skipped)


def _index(container: SourceImage, options: SourceOptions) -> Iterator[Member]:
    """What is in an archive."""
    file: Any = RangeFile(container.uri, container.size_bytes, options.storage)
    file.seek(max(0, file.size_bytes - _TAIL_BYTES))
    is_large = _directory_bytes(file.read()) > _LARGE_DIRECTORY_BYTES
    # Its members take five times as much in memory, so that of those one is read at a time.
    with _LARGE_DIRECTORY if is_large else nullcontext():
        yield from _members(container, file)


def _directory_bytes(tail: bytes) -> float:
    """What the end record says of the size of the directory; infinity where it does not."""
    try:
        _, *_, size_bytes, _, _ = _END_RECORD.unpack_from(tail, tail.rindex(_END_SIGNATURE))
    except (ValueError, struct.error):
        return float("inf")
    return float("inf") if size_bytes == _IN_ZIP64_EXTRA else float(size_bytes)


def _members(container: SourceImage, file: Any) -> Iterator[Member]:
    try:
        archive = zipfile.ZipFile(file)
    except (StorageFaultError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001  zipfile raises half a dozen types at damaged data
        yield broken(container, f"not a zip archive, or a damaged one ({one_line(error)})")
        return
    members = archive.infolist()
    # A damaged entry may name an offset behind the directory, where no member ends either.
    end = archive.start_dir
    starts = sorted({end, *(member.header_offset for member in members if member.header_offset < end)})
    seen: Counter[str] = Counter()
    for member in members:
        if member.filename.endswith("/"):  # not is_dir, which fails at a name without a character
            continue
        if (hidden := in_hidden_folder(container, member.filename)) is not None:
            yield hidden
        elif stat.S_ISLNK(member.external_attr >> 16) or not is_image(member.filename):
            yield None
        else:
            yield _image(container, unique(member.filename, seen), member, starts)


def _image(container: SourceImage, name: str, member: zipfile.ZipInfo, starts: list[int]) -> SourceImage:
    """A row for a member.

    Args:
        container: the archive.
        name: of the member.
        member: as in the directory.
        starts: offsets of every local header and, last, of the directory, ascending.
    """
    uri = f"{container.uri}#{name}"
    following = bisect_right(starts, member.header_offset)
    end = starts[following] if following < len(starts) else member.header_offset
    # The lengths of a local header's name and extra are only in itself, but the next header is seldom further than its
    # data. Where it is, deleted members or strangers' data lie between.
    least_bytes = _LOCAL_HEADER.size + member.compress_size
    length = min(end - member.header_offset, least_bytes + _MAX_NAME_AND_EXTRA_BYTES + _MAX_DESCRIPTOR_BYTES)
    error = None
    if member.flag_bits & _ENCRYPTED:
        error = "encrypted member of a zip archive: not supported"
    elif member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        method = _OTHER_METHODS.get(member.compress_type, f"method {member.compress_type}")
        error = f"member of a zip archive compressed with {method}: not supported, only deflate is"
    elif member.compress_size > 2 * member.file_size + _MAX_GROWTH_BYTES:
        error = f"damaged zip archive: {member.compress_size} bytes for a member of {member.file_size}"
    elif member.header_offset < 0 or length < least_bytes:
        error = f"damaged zip archive: {least_bytes} bytes of a member where there are {max(length, 0)}"
    if error is not None:
        return SourceImage(uri, member.file_size, container.etag, error=error)
    location = Location(container.uri, "zip", member.header_offset, length)
    return SourceImage(uri, member.file_size, container.etag, location)


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
