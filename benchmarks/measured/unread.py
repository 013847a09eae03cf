"""Reading without reading: who imports this has stages that fetch nothing and decode nothing.

Workers import it with the backend that is in their job. What is planned is looked up, and what comes after pixels is
done, as ever.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np
import numpy.typing as npt
from PIL import Image

from sam_pipeline.config import MaskConfig
from sam_pipeline.pipeline.job import Crops
from sam_pipeline.pipeline.workers import stages
from tests.faults.fake_engine import SIZE

_BYTES = b"an image"
_IMAGE = Image.new("RGB", (SIZE, SIZE))


def prepare(image: Image.Image, settings: MaskConfig, crop_size: int) -> Crops:
    """Always the same crop."""
    return [_crop(crop_size)]


@cache
def _crop(size: int) -> npt.NDArray[np.uint8]:
    return np.zeros((size, size, 3), np.uint8)


def _fetch_planned(images: Sequence[stages.PlannedImage], *_: object) -> Iterator[bytes]:
    return (_BYTES for _ in images)


def _decode_image(*_: object, **__: object) -> Image.Image:
    return _IMAGE


def _replace(name: str, function: object) -> None:
    getattr(stages, name)  # a name that is gone must not pass
    setattr(stages, name, function)


_replace("fetch_planned", _fetch_planned)
_replace("decode_image", _decode_image)
