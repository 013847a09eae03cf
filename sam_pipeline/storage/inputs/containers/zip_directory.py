"""The directory at the end of a zip archive, record by record.

The standard library's zipfile holds an object for each member: gigabytes, if there are millions. This module reads what
zipfile reads, and refuses what it refuses. It also reads Info-ZIP's extra field with the name in UTF-8, as later
versions of zipfile do.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple
from zipfile import BadZipFile

from sam_pipeline.storage.objects.range_file import ReadAheadFile

# Read in one request: the end record, the longest comment, and all of a small archive's directory.
_TAIL_BYTES = 2**17
_PIECE_BYTES = 2**22
# No archive has a larger one in good faith: these are millions of members.
_MAX_DIRECTORY_BYTES = 2**28

# PKWARE's APPNOTE, 4.3.12: signature, version needed, flags, method, both sizes, lengths of name, extra and comment,
# external attributes, offset of the local header.
_RECORD = struct.Struct("<4s2xBx2H8x2L3H4x2L")
_RECORD_SIGNATURE = b"PK\x01\x02"
_MAX_RECORD_BYTES = _RECORD.size + 3 * 0xFFFF
# 4.3.16: signature, size and offset of the directory.
_END = struct.Struct("<4s8x2L2x")
_END_SIGNATURE = b"PK\x05\x06"
_MAX_COMMENT_BYTES = 2**16
# 4.3.15: signature, disk of the record, number of disks. 4.3.14: signature, size and offset of the directory.
_LOCATOR64 = struct.Struct("<4sL8xL")
_LOCATOR64_SIGNATURE = b"PK\x06\x07"
_END64 = struct.Struct("<4s36x2Q")
_END64_SIGNATURE = b"PK\x06\x06"
# 4.5.1: kind and length of an extra field. 4.5.3: a field of kind 1 has what does not fit into 32 bits.
_EXTRA = struct.Struct("<2H")
_ZIP64_KIND = 1
_IN_ZIP64_EXTRA = 0xFFFFFFFF
# 4.6.9: Info-ZIP's field with the name in UTF-8, of version 1, which begins with the CRC-32 of the name it stands for.
_NAME_KIND = 0x7075
_NAME_HEAD = struct.Struct("<BL")
_NAME_VERSION = 1

_MAX_VERSION = 63
_NAME_IS_UTF8 = 1 << 11


class Entry(NamedTuple):
    """What the directory says of a member."""

    name: str
    flags: int
    method: int
    packed_bytes: int
    size_bytes: int
    attributes: int
    """External ones: in the upper 16 bits those of Unix."""
    offset: int
    """Place of the local header, in bytes from the beginning of the file. May be any number in a damaged archive."""


class ZipDirectory:
    """The directory of a zip archive, of which about 16 MiB are held at a time.

    Args:
        file: the archive.

    Raises:
        BadZipFile: there is no directory, or one of more than 256 MiB.
        StorageFaultError: here and in entries: the file cannot be read.
    """

    def __init__(self, file: ReadAheadFile) -> None:
        self._file = file
        file.seek(max(0, file.size_bytes - _TAIL_BYTES))
        tail = file.read()
        last = tail[-_END.size :]
        if len(last) == _END.size and last.startswith(_END_SIGNATURE) and last.endswith(b"\0\0"):
            at = len(tail) - _END.size
        else:
            tail = tail[-_MAX_COMMENT_BYTES - _END.size :]
            at = tail.rfind(_END_SIGNATURE)
        if at < 0 or at + _END.size > len(tail):
            raise BadZipFile("File is not a zip file")
        _, self._size_bytes, offset = _END.unpack_from(tail, at)
        end = file.size_bytes - len(tail) + at
        if (in_zip64 := self._end64(end)) is not None:
            end, self._size_bytes, offset = in_zip64
        self.start = end - self._size_bytes
        """Offset of the directory, in bytes from the beginning of the file."""
        # What was put before the archive moves all of it.
        self._moved_bytes = self.start - offset
        if self.start < 0:
            raise BadZipFile("Bad offset for central directory")
        if self._size_bytes > _MAX_DIRECTORY_BYTES:
            raise BadZipFile(f"its directory has {self._size_bytes} bytes, the limit is {_MAX_DIRECTORY_BYTES}")

    def _end64(self, end: int) -> tuple[int, int, int] | None:
        """Where the directory ends, its size, and its offset, as the end record of zip64 has them; None: there is none.

        Args:
            end: offset of the end record.
        """
        locator_at, record_at = end - _LOCATOR64.size, end - _LOCATOR64.size - _END64.size
        if locator_at < 0:
            return None
        self._file.seek(locator_at)
        signature, disk, num_disks = _LOCATOR64.unpack(self._file.read(_LOCATOR64.size))
        if signature != _LOCATOR64_SIGNATURE:
            return None
        if disk != 0 or num_disks > 1:
            raise BadZipFile("zipfiles that span multiple disks are not supported")
        if record_at < 0:
            raise BadZipFile("File is not a zip file")
        self._file.seek(record_at)
        signature, size_bytes, offset = _END64.unpack(self._file.read(_END64.size))
        return None if signature != _END64_SIGNATURE else (record_at, size_bytes, offset)

    def entries(self) -> Iterator[Entry]:
        """Read the directory from its beginning.

        Raises:
            BadZipFile: a record is damaged.
        """
        self._file.seek(self.start)
        unread, data, at = self._size_bytes, b"", 0
        while unread or at < len(data):
            if unread and len(data) - at < _MAX_RECORD_BYTES:
                piece = self._file.read(min(unread, _PIECE_BYTES))
                unread -= len(piece)
                data, at = data[at:] + piece, 0
            if len(data) - at < _RECORD.size:
                raise BadZipFile("Truncated central directory")
            signature, version, flags, method, *sizes, attributes, offset = _RECORD.unpack_from(data, at)
            packed_bytes, size_bytes, num_name, num_extra, num_comment = sizes
            if signature != _RECORD_SIGNATURE:
                raise BadZipFile("Bad magic number for central directory")
            if version > _MAX_VERSION:
                raise BadZipFile(f"zip file version {version / 10:.1f}")
            at += _RECORD.size + num_name
            stored_name = data[at - num_name : at]
            name = _decoded(stored_name, flags)
            if num_extra:
                fields = list(_extra_fields(data[at : at + num_extra]))
                size_bytes, packed_bytes, offset = _with_zip64(fields, size_bytes, packed_bytes, offset)
                name = _utf8_name(fields, stored_name) or name
            at += num_extra + num_comment
            yield Entry(name, flags, method, packed_bytes, size_bytes, attributes, offset + self._moved_bytes)


def _decoded(name: bytes, flags: int) -> str:
    """A name up to its first NUL."""
    try:
        return name.decode("utf-8" if flags & _NAME_IS_UTF8 else "cp437").partition("\0")[0]
    except UnicodeDecodeError as error:
        raise BadZipFile(str(error)) from None


def _extra_fields(extra: bytes) -> Iterator[tuple[int, bytes]]:
    """The fields of a record's extra field: their kinds and what is in them.

    Raises:
        BadZipFile: one is longer than what is left.
    """
    at = 0
    while len(extra) - at >= _EXTRA.size:
        kind, num_bytes = _EXTRA.unpack_from(extra, at)
        at += _EXTRA.size
        if at + num_bytes > len(extra):
            raise BadZipFile(f"Corrupt extra field {kind:04x} (size={num_bytes})")
        yield kind, extra[at : at + num_bytes]
        at += num_bytes


def _with_zip64(fields: Sequence[tuple[int, bytes]], *numbers: int) -> list[int]:
    """The numbers of a record (both sizes and the offset), with those that are in its fields taken from there."""
    found = list(numbers)
    for kind, content in fields:
        if kind != _ZIP64_KIND:
            continue
        at = 0
        for index, number in enumerate(found):
            if number == _IN_ZIP64_EXTRA:
                if at + 8 > len(content):
                    raise BadZipFile("Corrupt zip64 extra field")
                found[index] = int.from_bytes(content[at : at + 8], "little")
                at += 8
    return found


def _utf8_name(fields: Sequence[tuple[int, bytes]], stored_name: bytes) -> str | None:
    """The name that a record's fields have in UTF-8; None if they have none that can be used, or one of another name.

    A program that renames the member and does not know the field leaves the old name in it.
    """
    found = None
    for kind, content in fields:
        if kind != _NAME_KIND or len(content) < _NAME_HEAD.size:
            continue
        if _NAME_HEAD.unpack_from(content) == (_NAME_VERSION, zlib.crc32(stored_name)):
            with suppress(UnicodeDecodeError):
                found = content[_NAME_HEAD.size :].decode().partition("\0")[0] or found
    return found
