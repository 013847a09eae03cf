"""Bytes of image files, sound and odd, made on the spot."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")


def noise(height=12, width=16, channels=3, seed=0):
    """Random uint8 samples: (H, W, C)."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def saved(image, kind, **options):
    """An image, or an array of its samples, as the bytes of a file."""
    buffer = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(buffer, kind, **options)
    return buffer.getvalue()


def png(width, height, bit_depth, colour_type, rows=b"", extra=b""):
    """A PNG from its header, its raw scan lines (each with its filter byte) and other chunks before them."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bit_depth, colour_type, 0, 0, 0))
    data = png_chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + header + extra + data + png_chunk(b"IEND", b"")


def png_chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def tiff(width, height, samples, *, byte_order, bits, sample_format=1):
    """An uncompressed grey TIFF of one strip; sample_format is 1 unsigned, 2 signed, 3 floating point."""
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, 1), (273, 0), (277, 1), (278, height)]
    tags += [(279, len(samples)), (339, sample_format)]
    offset = 8 + 2 + 12 * len(tags) + 4
    order = {"little": "<", "big": ">"}[byte_order]
    file = (b"II" if byte_order == "little" else b"MM") + struct.pack(order + "HIH", 42, 8, len(tags))
    for tag, value in tags:
        file += struct.pack(order + "HHII", tag, 4, 1, offset if tag == 273 else value)  # 4: LONG
    return file + struct.pack(order + "I", 0) + samples
