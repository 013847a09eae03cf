"""One contender on one image, in a process of its own: `python -m tests.benchmarks.contender NAME IMAGE SETTINGS`.

Prints one line of JSON: seconds for the whole generator (weights loaded, first call already made on a small grid, so
that compilation and page faults are not counted), peak memory of the process, and
the masks.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from sam_pipeline.config import MaskConfig
from sam_pipeline.masks.generator import MaskGenerator
from sam_pipeline.model.checkpoints import fetch_checkpoint
from sam_pipeline.model.registry import build_sam
from tests.parity.oracle import official_generator, official_mobile_sam

Generate = Callable[[NDArray[np.uint8]], list[dict[str, Any]]]


def ours(settings: dict[str, Any]) -> Generate:
    generator = MaskGenerator(build_sam("vit_t", fetch_checkpoint("vit_t")), MaskConfig(**settings))
    return lambda image: [record.to_dict() for record in generator.generate(image)]


def official(settings: dict[str, Any]) -> Generate:
    sam = official_mobile_sam(torch.load(fetch_checkpoint("vit_t"), weights_only=True))
    generate: Generate = official_generator(sam, output_mode="coco_rle", **settings).generate
    return generate


CONTENDERS = {"ours": ours, "official": official}


def main(name: str, image_path: str, settings_json: str) -> None:
    """Run and print."""
    settings = json.loads(settings_json)
    image = np.asarray(Image.open(image_path).convert("RGB"))
    CONTENDERS[name](settings | {"points_per_side": 2, "crop_n_layers": 0})(image)
    generate = CONTENDERS[name](settings)
    start = time.perf_counter()
    masks = generate(image)
    seconds = time.perf_counter() - start
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    sys.stdout.write(json.dumps({"seconds": seconds, "peak_bytes": peak_bytes, "masks": masks}) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
