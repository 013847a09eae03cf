"""Files whose headers would keep Pillow busy: refused at once. And odd headers that real files have: read."""

import io
import struct
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from sam_pipeline.storage.inputs.decoding.image_headers import why_too_long
from sam_pipeline.storage.inputs.decoding.image_reading import DecodeError, decode_image

NUM_BYTES = 20 * 10**6
AT_ONCE_S = 2.0
"""Of CPU; walking all of such a file takes Pillow five seconds or more."""


def encoded(form, **settings):
    file = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(file, form, **settings)
    return file.getvalue()


JPEG, PNG, GIF = encoded("JPEG"), encoded("PNG"), encoded("GIF")
GIF_HEADER_BYTES = 13 + (3 << (GIF[10] & 7) + 1)


def png_chunk(kind, content=b""):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def jpeg_segment(code, content=b""):
    return b"\xff" + bytes([code]) + struct.pack(">H", len(content) + 2) + content


def in_jpeg(part):
    return JPEG[:2] + part + JPEG[2:]


def in_gif(part):
    return GIF[:GIF_HEADER_BYTES] + part + GIF[GIF_HEADER_BYTES:]


def tiff(tag, kind, num_values, *, big=False):
    """An image of one pixel, one of whose tags has many values."""
    tags = {256: (3, 1, 1), 257: (3, 1, 1), 258: (3, 1, 8), 259: (3, 1, 1), 262: (3, 1, 1), 273: (4, 1, 8)}
    tags |= {277: (3, 1, 1), 278: (3, 1, 1), 279: (4, 1, 1), tag: (kind, num_values, 8)}
    content = bytes(NUM_BYTES)
    layout, start = ("<HHQQ", "<HHHQ") if big else ("<HHII", "<HI")
    head = struct.pack(start, 43, 8, 0, 16 + NUM_BYTES) if big else struct.pack(start, 42, 8 + NUM_BYTES)
    entries = b"".join(struct.pack(layout, number, *values) for number, values in sorted(tags.items()))
    return b"II" + head + content + struct.pack("<Q" if big else "<H", len(tags)) + entries + bytes(8)


HOSTILE = {
    "JPEG of one byte": lambda: b"\xff\xd8" + b"\xff" * NUM_BYTES,
    "JPEG of stuffed bytes": lambda: in_jpeg(b"\xff\0" * (NUM_BYTES // 2)),
    "JPEG of zeros": lambda: in_jpeg(bytes(NUM_BYTES)),
    "JPEG of comments": lambda: in_jpeg(jpeg_segment(0xFE) * (NUM_BYTES // 4)),
    "JPEG of application data": lambda: in_jpeg(jpeg_segment(0xEF) * (NUM_BYTES // 4)),
    "JPEG of EXIF": lambda: in_jpeg(jpeg_segment(0xE1, b"Exif\0\0" + bytes(60_000)) * (NUM_BYTES // 60_000)),
    "JPEG of restarts": lambda: in_jpeg(b"\xff\xd0" * (NUM_BYTES // 2)),
    "PNG of private chunks": lambda: PNG[:33] + png_chunk(b"prIv") * (NUM_BYTES // 12) + PNG[33:],
    "PNG of chunks behind": lambda: PNG[:-12] + png_chunk(b"prIv") * (NUM_BYTES // 12) + PNG[-12:],
    "PNG of empty data": lambda: PNG[:33] + png_chunk(b"IDAT") * (NUM_BYTES // 12) + PNG[33:],
    "GIF with one comment": lambda: in_gif(b"!\xfe" + (b"\xff" + bytes(255)) * (NUM_BYTES // 256) + b"\0"),
    "GIF with comments": lambda: in_gif(b"!\xfe\x01c\0" * (NUM_BYTES // 5)),
    "GIF with zeros": lambda: in_gif(bytes(NUM_BYTES)),
    "TIFF with resolutions": lambda: tiff(282, 5, NUM_BYTES // 8),
    "TIFF with strips": lambda: tiff(273, 4, NUM_BYTES // 4),
    "BigTIFF with strips": lambda: tiff(273, 16, NUM_BYTES // 8, big=True),
}


@pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE)
def test_a_header_that_takes_too_long_is_refused_at_once(make):
    data = make()
    start = time.process_time()
    with pytest.raises(
        DecodeError, match=r"cannot be decoded: (more than )?\d+ (bytes|segments|EXIF|chunks|blocks|val)"
    ):
        decode_image(data, max_pixels=10**8)
    assert time.process_time() - start < AT_ONCE_S


ODD = {
    "JPEG with fill bytes": in_jpeg(b"\xff" * 9),
    "JPEG with 300 segments": in_jpeg(jpeg_segment(0xE2, bytes(1000)) * 300),
    "JPEG with EXIF in two segments": in_jpeg(jpeg_segment(0xE1, b"Exif\0\0" + bytes(60_000)) * 2),
    "PNG with text": PNG[:33] + png_chunk(b"tEXt", b"a\0b") * 1000 + PNG[33:],
    "GIF with an XMP extension": in_gif(b"!\xff\x0bXMP DataXMP" + (b"\xff" + bytes(255)) * 256 + b"\0"),
}


@pytest.mark.parametrize("data", ODD.values(), ids=ODD)
def test_odd_headers_of_real_files_are_read(data):
    assert np.abs(np.asarray(decode_image(data, max_pixels=10**8), int) - [255, 0, 0]).max() < 3


@pytest.mark.parametrize("data", [JPEG, PNG, GIF, encoded("TIFF")], ids=["JPEG", "PNG", "GIF", "TIFF"])
def test_a_file_that_is_cut_anywhere_is_for_pillow_to_judge(data):
    assert [length for length in range(len(data)) if why_too_long(data[:length])] == []


@pytest.mark.parametrize("head", [b"II\x2b\0\x08\0\0\0", b"MM\0\x2b\0\x08\0\0"], ids=["little", "big"])
@pytest.mark.parametrize("offset", [b"\xff" * 8, b"\x7f" + b"\xff" * 7, b"\xff" * 7 + b"\x7f"])
def test_a_bigtiff_whose_tags_are_beyond_any_file_is_for_pillow_to_judge(head, offset):
    assert why_too_long(head + offset) is None
    with pytest.raises(DecodeError):
        decode_image(head + offset + bytes(64), max_pixels=10**8)
