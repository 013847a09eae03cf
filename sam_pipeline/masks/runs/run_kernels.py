"""Moving runs from a crop to its image, and compressing them. Runs are edges as in `Runs`."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

Edges = NDArray[np.int64]

_MOST_CHARACTERS = 13
"""Characters of one run length: five bits each."""


@numba.njit(nogil=True, cache=True)
def uncrop(edges: Edges, crop_size: tuple[int, int], height: int, x0: int, y0: int) -> Edges:
    """Cut runs at the feet of a crop's columns, and number pixels as in the image.

    Args:
        edges: of the crop.
        crop_size: (H, W) of the crop.
        height: of the image.
        x0: the crop's left column in the image.
        y0: its top row.
    """
    crop_height, crop_width = crop_size
    placed = np.empty(len(edges) + 2 * crop_width, np.int64)
    num_placed = 0
    for i in range(0, len(edges), 2):
        start, end = edges[i], edges[i + 1]
        column = start // crop_height
        while start < end:
            stop = min(end, (column + 1) * crop_height)
            shift = (column + x0) * height + y0 - column * crop_height
            if num_placed > 0 and placed[num_placed - 1] == start + shift:
                num_placed -= 1  # pieces of a crop as high as the image touch again
            else:
                placed[num_placed] = start + shift
                num_placed += 1
            placed[num_placed] = stop + shift
            num_placed += 1
            start = stop
            column += 1
    return placed[:num_placed].copy()


@numba.njit(nogil=True, cache=True)
def compress(edges: Edges, num_pixels: int) -> NDArray[np.uint8]:
    """The ASCII characters of COCO's compressed counts.

    Counts are run lengths, background first. From the fourth on each is written as its difference to the last but one;
    five bits a character, the lowest first, a sixth bit where more follow, and 48 added.
    """
    characters = np.empty(_MOST_CHARACTERS * (len(edges) + 1), np.uint8)
    num_characters = 0
    is_open = len(edges) == 0 or edges[-1] < num_pixels
    before, count, last = 0, 0, 0  # the last two counts, and where they end
    for i in range(len(edges) + is_open):
        end = int(edges[i]) if i < len(edges) else num_pixels
        length = end - last
        rest = length - before if i > 2 else length
        before, count, last = count, length, end
        more = True
        while more:
            character = rest & 31
            rest >>= 5
            more = rest != (-1 if character & 16 else 0)
            characters[num_characters] = character + 48 + (32 if more else 0)
            num_characters += 1
    return characters[:num_characters]


@numba.njit(nogil=True, cache=True)
def draw(characters: NDArray[np.uint8], pixels: NDArray[np.uint8]) -> tuple[int, int, int, int, int]:
    """Set the pixels of a mask to 1; only these are touched. The characters are those of compress.

    Args:
        characters: of the counts; what they say beyond the last pixel is left out.
        pixels: (H, W), row after row, in which the mask is drawn.

    Returns:
        x0, y0, x1, y1 of the box around the pixels, x1 and y1 exclusive, and the number of pixels; all 0 for none.
    """
    height, width = pixels.shape
    num_pixels = height * width
    x0, y0, x1, y1, area = width, height, 0, 0, 0
    before, count, start, number, place = 0, 0, 0, 0, 0
    while place < len(characters) and start < num_pixels:
        length, shift, more = 0, 0, True
        while more and place < len(characters):
            character = int(characters[place]) - 48
            length |= (character & 31) << shift
            shift += 5
            more = character & 32 != 0
            if not more and character & 16:
                length |= -1 << shift
            place += 1
        if number > 2:
            length += before
        before, count = count, length
        end = min(start + max(length, 0), num_pixels)
        if number % 2 and end > start:
            first, last = start // height, (end - 1) // height
            for x in range(first, last + 1):
                top = start - x * height if x == first else 0
                bottom = end - x * height if x == last else height
                y0, y1 = min(y0, top), max(y1, bottom)
                for y in range(top, bottom):
                    pixels[y, x] = 1
            x0, x1 = min(x0, first), max(x1, last + 1)
            area += end - start
        start = end
        number += 1
    return (x0, y0, x1, y1, area) if area else (0, 0, 0, 0, 0)
