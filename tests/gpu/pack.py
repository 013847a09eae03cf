"""Put what a borrowed machine without a network lacks into a folder: `python -m tests.gpu.pack FOLDER`, see pack.sh.

Weights of vit_t and MobileSAM's own code, in a folder that takes the place of the user's cache there, and photographs.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from benchmarks.photographs import skimage_photograph
from sam_pipeline.model.checkpoints import fetch_checkpoint
from tests.gpu.bench import CACHE
from tests.parity.oracle import mobile_sam_folder

PHOTOGRAPHS = (
    "astronaut.png",
    "camera.png",
    "chelsea.png",
    "coffee.png",
    "hubble_deep_field.jpg",
    "motorcycle_left.png",
    "retina.jpg",
    "rocket.jpg",
)


def pack(folder: Path) -> None:
    """Fill a folder, which may be filled already."""
    weights, code = fetch_checkpoint("vit_t"), mobile_sam_folder()
    _copy(weights, folder / CACHE / weights.name)
    for path in code.rglob("*.py"):
        _copy(path, folder / CACHE / "tests" / path.relative_to(code.parent))
    for name in PHOTOGRAPHS:
        _copy(skimage_photograph(name), folder / "photographs" / name)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


if __name__ == "__main__":
    pack(Path(sys.argv[1]))
