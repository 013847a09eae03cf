"""The CPU half of decoding (`MaskGenerator.finish`: NMS, runs, RLE): CPU milliseconds an image, on one thread.

Photographs are resized to one size; detecting their masks comes first, half a minute each, and is not measured. On a
GPU pixels are found there, and finish is what is left.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.photographs import skimage_photograph
from benchmarks.report import print_table, write_result
from sam_pipeline.config import MaskConfig
from sam_pipeline.masks import prediction
from sam_pipeline.masks.generator import MaskGenerator
from sam_pipeline.masks.geometry.crops import prepare_crops
from sam_pipeline.model.checkpoints import fetch_checkpoint
from sam_pipeline.model.registry import build_sam

_PHOTOGRAPHS = ("coffee.png", "motorcycle_left.png")


def measure(generator: MaskGenerator, photograph: Path, size: tuple[int, int], repeats: int) -> dict[str, Any]:
    """Finish one photograph of (W, H) pixels `repeats` times."""
    with Image.open(photograph) as opened:
        image = np.asarray(opened.convert("RGB").resize(size, Image.Resampling.BICUBIC))
    crops = prepare_crops(image, generator.config)
    embeddings = torch.cat([prediction.encode(generator.sam, [crop], generator.precision) for crop in crops])
    detections = generator.detect(embeddings, image.shape[:2])
    records = generator.finish(detections)  # warm-up too
    times = []
    for _ in range(repeats):
        start = time.process_time()
        generator.finish(detections)
        times.append((time.process_time() - start) * 1000)
    return {
        "image": photograph.name,
        "candidates": sum(len(crop.found.masks) for crop in detections),
        "masks": len(records),
        "rle_bytes": sum(len(record.segmentation["counts"]) for record in records),
        "finish_cpu_ms": statistics.median(times),
    }


def main(arguments: Sequence[str]) -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(
        "benchmark finish", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = [skimage_photograph(name) for name in _PHOTOGRAPHS]
    parser.add_argument("images", type=Path, nargs="*", default=default, help="photographs; by default two")
    parser.add_argument("--size", type=int, nargs=2, default=(2250, 1500), help="width and height to resize them to")
    parser.add_argument("--settings", type=json.loads, default={}, help="JSON of mask settings, official defaults")
    parser.add_argument("--repeats", type=int, default=15, help="figures are medians of so many")
    parser.add_argument("--device", default="cpu", help="that detects")
    parsed = parser.parse_args(arguments)
    torch.set_num_threads(1)
    sam = build_sam("vit_t", fetch_checkpoint("vit_t")).to(parsed.device)
    generator = MaskGenerator(sam, MaskConfig(**parsed.settings))
    rows = [measure(generator, image, tuple(parsed.size), parsed.repeats) for image in parsed.images]
    print_table(tuple(rows[0]), [tuple(str(value) for value in row.values()) for row in rows])
    write_result("finish", {"size": parsed.size, "settings": parsed.settings, "repeats": parsed.repeats, "rows": rows})
