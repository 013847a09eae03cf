"""Small photographs, cut from those that ship inside scikit-image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import skimage.data
from numpy.typing import NDArray
from PIL import Image

HEIGHT, WIDTH = 96, 128

_PHOTOS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")  # others would be downloaded
_CORNERS_XY = ((30, 40), (110, 90), (190, 140), (270, 190))


def photo(index: int) -> NDArray[np.uint8]:
    """The index-th of 16 photographs, (96, 128, 3) uint8 RGB."""
    name = _PHOTOS[index % len(_PHOTOS)]
    x, y = _CORNERS_XY[index // len(_PHOTOS)]
    with Image.open(Path(skimage.data.__file__).parent / name) as image:
        return np.asarray(image.convert("RGB").crop((x, y, x + WIDTH, y + HEIGHT)))


def save_photos(folder: Path, count: int) -> Path:
    """Write the first photographs as PNG, which keeps every pixel; returns the folder."""
    folder.mkdir(parents=True)
    for index in range(count):
        Image.fromarray(photo(index)).save(folder / f"{index:02}.png")
    return folder
