"""What a file is by its first bytes, where its name does not say."""

from __future__ import annotations

from PIL import Image

from sam_pipeline.storage.inputs.decoding.image_reading import FORMATS

HEAD_BYTES = 512
"""How many of a file's first bytes are needed to tell its kind."""

_CONTAINERS = {b"PAR1": "a Parquet file", b"PK\x03\x04": "a zip archive", b"\x1f\x8b": "a gzipped file"}
_TAR_MARK = slice(257, 262)


def is_image_data(head: bytes) -> bool:
    """Whether a file that begins so may be an image of one of the formats that are read."""
    Image.init()
    accepts = [accept for _, accept in (Image.OPEN[name] for name in FORMATS) if accept is not None]
    return len(head) >= 16 and any(accept(head) is True for accept in accepts)


def container_of(head: bytes) -> str | None:
    """Which kind of container begins so, in words for a message; None if none does."""
    if head[_TAR_MARK] == b"ustar":
        return "a tar archive"
    return next((what for mark, what in _CONTAINERS.items() if head.startswith(mark)), None)
