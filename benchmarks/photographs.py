"""Photographs that ship inside packages, so that nothing is downloaded and everyone measures on the same pixels.

scikit-image is a development dependency; the other packages are only unpacked, into the peers' environment.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

PEERS_ENVIRONMENT = Path(".venv-peers")

_SKIMAGE = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "cell.png",
    "chelsea.png",
    "clock_motion.png",
    "coffee.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "moon.png",
    "motorcycle_left.png",
    "page.png",
    "retina.jpg",
    "rocket.jpg",
    "text.png",
)
_PEERS = (
    "gradio/media_assets/images/cheetah.jpg",
    "gradio/media_assets/images/cheetah1.jpg",
    "gradio/media_assets/images/lion.jpg",
    "gradio/media_assets/images/tower.jpg",
    "imgaug/quokka.jpg",
    "insightface/data/images/t1.jpg",
    "mahotas/demos/data/luispedro.jpg",
    "matplotlib/mpl-data/sample_data/grace_hopper.jpg",
    "sklearn/datasets/images/china.jpg",
    "sklearn/datasets/images/flower.jpg",
    "ultralytics/assets/bus.jpg",
    "ultralytics/assets/zidane.jpg",
)


def photographs() -> list[Path]:
    """All that are here: 18 of scikit-image, and 12 more once `make bench` has made the peers' environment."""
    folders = [*PEERS_ENVIRONMENT.glob("lib/python*/site-packages")]
    found = [skimage_photograph(name) for name in _SKIMAGE]
    return found + [folder / name for folder in folders for name in _PEERS if (folder / name).is_file()]


def skimage_photograph(name: str) -> Path:
    """One of scikit-image's, by file name."""
    spec = find_spec("skimage")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "data" / name


def read_photograph(path: Path | str) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB; gray photographs have three equal channels."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def synthetic_photograph(width: int, height: int, seed: int) -> NDArray[np.uint8]:
    """(H, W, 3) uint8: a few hundred shapes of all sizes before a gradient, for machines without photographs."""
    random = np.random.default_rng(seed)
    ramp = Image.linear_gradient("L").resize((width, height))
    image = Image.merge("RGB", [ramp, ramp.rotate(180), ramp])
    draw = ImageDraw.Draw(image)
    for _ in range(300):
        size = min(width, height) * random.uniform(0.1, 0.6) ** 2
        x, y = random.uniform(0, width), random.uniform(0, height)
        shape = draw.ellipse if random.random() < 0.5 else draw.rectangle
        colour = tuple(int(value) for value in random.integers(0, 256, 3))
        shape((x, y, x + size * random.uniform(0.5, 2), y + size * random.uniform(0.5, 2)), fill=colour)
    noise = random.normal(0, 4, (height, width, 3))
    blurred = np.asarray(image.filter(ImageFilter.GaussianBlur(1)), dtype=np.float64)
    return np.clip(blurred + noise, 0, 255).astype(np.uint8)
