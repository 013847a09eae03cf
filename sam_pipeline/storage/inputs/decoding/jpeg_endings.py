"""JPEGs without their end marker: whether anything else is missing too.

A camera or a download that is cut in its last two bytes leaves a picture with all its pixels. libjpeg cannot say so: it
takes a scan that is cut for one that is complete, and fills it up with grey.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

_END_MARKER = b"\xff\xd9"
_START_OF_SCAN = b"\xff\xda"
_FIRST_RESTART = 0xD0
_NUM_COEFFICIENTS = 64

NUM_ENDINGS = 16
"""How many there are of possible_endings."""

# A marker, but neither a byte 0xFF of a scan (0xFF00), a restart marker, nor one of the 0xFF that may stand before it.
_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")
_RESTART = re.compile(rb"\xff([\xd0-\xd7])")


def possible_endings(data: bytes) -> Iterator[bytes]:
    """What to put behind a JPEG without its end marker, in turn: if it has all its pixels, they stay the same.

    Behind a complete scan a decoder passes over everything up to the end marker. Where the scan is cut, it decodes what
    follows as pixels: here random bits, of which the first differ from ending to ending, since only a few may be
    missing. Where the scan has restart markers, the one that is due follows immediately, since a decoder that waits for
    it passes over all else.

    Args:
        data: the file, which holds a scan.
    """
    restarts = _RESTART.findall(data, data.rindex(_START_OF_SCAN))
    due = restarts[-1][0] + 1 if restarts else _FIRST_RESTART
    generator = np.random.default_rng(0)
    for beginning in range(NUM_ENDINGS):
        pieces = generator.integers(0, 0xFF, (8, 64), dtype=np.uint8)  # without 0xFF, which begins a marker
        pieces[:, 0] = pieces[:, 0] % 15 + 16 * beginning
        markers = (bytes((0xFF, _FIRST_RESTART + (due + index) % 8)) for index in range(len(pieces)))
        yield b"".join(piece.tobytes() + marker for piece, marker in zip(pieces, markers, strict=True)) + _END_MARKER


def has_all_scans(data: bytes) -> bool:
    """Whether there is a scan of each component, down to the last bit of its last coefficient.

    One file may hold a component, a range of its coefficients or one of their bits in each scan. A file that is cut
    between two scans is whole for a decoder, only less sharp.
    """
    missing: dict[int, set[int]] = {}
    for marker, segment in _segments(data):
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and not missing:  # the frame
            missing = {component: set(range(_NUM_COEFFICIENTS)) for component in segment[6::3]}
        elif marker == _START_OF_SCAN[1] and len(segment) >= 4:
            components, (first, last, bits) = segment[1:-3:2], segment[-3:]
            for component in components:
                if bits & 0xF == 0:  # the lowest bit
                    missing.get(component, set()).difference_update(range(first, last + 1))
    return bool(missing) and not any(missing.values())


def _segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Marker and content of each segment; the data of scans are passed over."""
    position = 2
    while (found := _MARKER.search(data, position)) is not None:
        start = found.end() + 2
        length = int.from_bytes(data[found.end() : start], "big")
        if found[1] in (b"\xd8", b"\xd9", b"\x01") or length < 2 or found.end() + length > len(data):
            return
        position = found.end() + length
        yield found[1][0], data[start:position]
