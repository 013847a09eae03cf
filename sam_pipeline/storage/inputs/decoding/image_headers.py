"""Refusing image files whose headers alone would keep Pillow busy for minutes.

Pillow walks headers in Python, a marker, chunk or block at a time, and joins some of them with a copy for each:
megabytes of padding or of tiny parts take it from seconds to hours. The walks here take only so many steps.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Mapping

_MAX_JPEG_SEGMENTS = 1_000
_MAX_JPEG_PADDING_BYTES = 2**16
_MAX_EXIF_SEGMENTS = 64
_MAX_GIF_BLOCKS = 10_000
_MAX_TIFF_VALUES = 2**20
# Encoders write data in chunks of kilobytes.
_MAX_PNG_CHUNKS = 10_000
_BYTES_PER_PNG_CHUNK = 2**9

_FILL = re.compile(rb"\xff*")
_EXIF = re.compile(rb"\xe1..Exif\0\0", re.DOTALL)
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xDA)})

_TIFF_BYTE_TYPES = (1, 2, 6, 7)


def why_too_long(data: bytes) -> str | None:
    """What is wrong with the header of a JPEG, PNG, GIF or TIFF file, if reading it would take too long."""
    return next((check(data) for magic, check in _CHECKS.items() if data.startswith(magic)), None)


def _jpeg(data: bytes) -> str | None:
    position, num_padding, num_exif = 2, 0, 0
    for _ in range(_MAX_JPEG_SEGMENTS):
        start, position = position, _next_marker(data, position)
        num_padding += position - start
        if num_padding > _MAX_JPEG_PADDING_BYTES:
            return f"more than {_MAX_JPEG_PADDING_BYTES} bytes of padding in its header"
        code = data[position : position + 1]
        if not code or code[0] in (_START_OF_SCAN, _END_OF_IMAGE):
            return None
        num_exif += _EXIF.match(data, position) is not None
        if num_exif > _MAX_EXIF_SEGMENTS:
            return f"more than {_MAX_EXIF_SEGMENTS} EXIF segments"
        position += 1
        if code[0] not in _WITHOUT_LENGTH:
            position += max(2, int.from_bytes(data[position : position + 2], "big"))
    return f"more than {_MAX_JPEG_SEGMENTS} segments in its header"


def _next_marker(data: bytes, start: int) -> int:
    """Where the code of the next marker stands; at the end, or far off, where there is none near."""
    position, end = start, min(len(data), start + 2 * _MAX_JPEG_PADDING_BYTES)
    while (marker_at := data.find(b"\xff", position, end)) >= 0:
        fill = _FILL.match(data, marker_at, end)
        position = marker_at + 1 if fill is None else fill.end()
        if data[position : position + 1] != b"\0":  # else a byte of a scan, which Pillow passes over too
            return position
    return end


def _png(data: bytes) -> str | None:
    position = 8
    most = _MAX_PNG_CHUNKS + len(data) // _BYTES_PER_PNG_CHUNK
    for _ in range(most):
        if position + 8 > len(data):
            return None
        position += 12 + int.from_bytes(data[position : position + 4], "big")
    return f"more than {most} chunks"


def _gif(data: bytes) -> str | None:
    flags = data[10] if len(data) > 10 else 0
    position = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    is_extension = False
    for _ in range(_MAX_GIF_BLOCKS):
        block = data[position : position + 1]
        if is_extension:  # sub-blocks, to an empty one
            is_extension = bool(block) and block != b"\0"
            position += 1 + (block[0] if block else 0)
        elif block in (b",", b";", b""):
            return None
        else:
            is_extension = block == b"!"
            position += 2 if is_extension else 1
    return f"more than {_MAX_GIF_BLOCKS} blocks before its first frame"


def _tiff(data: bytes) -> str | None:
    order = "<" if data.startswith(b"I") else ">"
    is_big = data[2:4] in (b"\x2b\0", b"\0\x2b")
    offset, count, entry = ("Q", "Q", "HHQ8x") if is_big else ("I", "H", "HHI4x")
    try:
        (position,) = struct.unpack_from(order + offset, data, 8 if is_big else 4)
        (num_tags,) = struct.unpack_from(order + count, data, position)
        first = position + struct.calcsize(order + count)
        entries = data[first : first + min(num_tags, 2**16) * struct.calcsize(order + entry)]
        for tag, kind, num_values in struct.iter_unpack(order + entry, entries):
            if kind not in _TIFF_BYTE_TYPES and num_values > _MAX_TIFF_VALUES:
                return f"{num_values} values in its tag {tag}"
    except (struct.error, OverflowError):
        return None  # cut, or beyond any file: Pillow says it better
    return None


_CHECKS: Mapping[bytes, Callable[[bytes], str | None]] = {
    b"\xff\xd8": _jpeg,
    b"\x89PNG\r\n\x1a\n": _png,
    b"GIF8": _gif,
    b"II\x2a\0": _tiff,
    b"MM\0\x2a": _tiff,
    b"II\x2b\0": _tiff,
    b"MM\0\x2b": _tiff,
}
