"""Masks for the boxes of a detector: all boxes of an image at once, beside the official predictor box by box.

Both have MobileSAM's weights and the same boxes, each in a process of its own; the two take turns, and figures are
medians. The image is encoded before the clock starts: that work is the same. Ours is timed to compressed run lengths,
the official one to pixels.

    python -m benchmarks.commands.prompts NAME IMAGE BOXES CHECKPOINT

is one such process: it prints seconds, peak memory and the masks as JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from benchmarks.measured.contender import peak_bytes
from benchmarks.photographs import read_photograph, skimage_photograph
from benchmarks.report import print_table, write_result
from sam_pipeline.masks.decoder.shared_decoder import SharedDecoder
from sam_pipeline.masks.geometry.resize import resize_image
from sam_pipeline.masks.prediction import encode
from sam_pipeline.masks.prompted import PromptedMaskGenerator
from sam_pipeline.masks.prompts import Prompt
from sam_pipeline.model.checkpoints import fetch_checkpoint
from sam_pipeline.model.registry import build_sam
from tests.parity.oracle import official_mobile_sam, official_predictor

NAMES = ("official", "ours")

Rle = dict[str, Any]
Boxes = list[list[float]]


def random_boxes(size: tuple[int, int], count: int, seed: int) -> Boxes:
    """Boxes of all sizes from a twentieth of an image's sides: xyxy in pixels, size (H, W)."""
    generator = np.random.default_rng(seed)
    sides = generator.uniform(0.05, 0.6, (count, 2)) * size[::-1]
    corners = generator.uniform(0, 1, (count, 2)) * (np.array(size[::-1]) - sides)
    boxes: Boxes = np.concatenate([corners, corners + sides], axis=1).tolist()
    return boxes


def official(image: NDArray[np.uint8], boxes: Boxes, checkpoint: Path) -> Callable[[], list[Any]]:
    """The predictor of segment_anything 1.0 with MobileSAM's own encoder."""
    predictor = official_predictor(official_mobile_sam(torch.load(checkpoint, weights_only=True)))
    predictor.set_image(image)
    return lambda: [predictor.predict(box=np.array(box), multimask_output=False)[0][0] for box in boxes]


def ours(image: NDArray[np.uint8], boxes: Boxes, checkpoint: Path) -> Callable[[], list[Any]]:
    """This project's."""
    sam = build_sam("vit_t", checkpoint)
    generator = PromptedMaskGenerator(sam, SharedDecoder(sam), multimask_output=False)
    embedding = encode(sam, [resize_image(image, sam.image_encoder.img_size)])
    prompts = [Prompt((x0, y0, x1, y1)) for x0, y0, x1, y1 in boxes]
    return lambda: [record.segmentation for record in generator.decode(embedding, image.shape[:2], prompts)]


def one(name: str, image_path: Path, boxes_path: Path, checkpoint: Path) -> dict[str, Any]:
    """Decode two boxes to warm up, then all."""
    image, boxes = read_photograph(image_path), json.loads(boxes_path.read_text())
    make = ours if name == "ours" else official
    make(image, boxes[:2], checkpoint)()
    decode = make(image, boxes, checkpoint)
    start = time.perf_counter()
    masks = decode()
    seconds = time.perf_counter() - start
    if name == "official":
        masks = [_rle(mask) for mask in masks]
    return {"seconds": seconds, "peak_bytes": peak_bytes(), "masks": [dict(mask) for mask in masks]}


def _rle(mask: NDArray[np.bool_]) -> Rle:
    encoded: Rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(encoded["size"]), "counts": encoded["counts"].decode()}


def compare(image: Path, count: int, seed: int, runs: int) -> dict[str, Any]:
    """Medians of both, and the share of pixels that are the same in the mask where they differ most, and in all."""
    checkpoint = fetch_checkpoint("vit_t", progress=False)
    height, width = read_photograph(image).shape[:2]
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in NAMES}
    with tempfile.TemporaryDirectory() as scratch:
        boxes = Path(scratch) / "boxes.json"
        boxes.write_text(json.dumps(random_boxes((height, width), count, seed)))
        for _ in range(runs):
            for name in NAMES:
                words = [name, str(image), str(boxes), str(checkpoint)]
                command = [sys.executable, "-m", "benchmarks.commands.prompts", *words]
                printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
                results[name].append(json.loads(printed.splitlines()[-1]))
    theirs, mine = (results[name][-1]["masks"] for name in NAMES)
    same = [float((coco_mask.decode(a) == coco_mask.decode(b)).mean()) for a, b in zip(theirs, mine, strict=True)]
    speedup = statistics.median(slow["seconds"] / fast["seconds"] for slow, fast in zip(*results.values(), strict=True))
    medians = {
        name: {key: statistics.median(result[key] for result in found) for key in ("seconds", "peak_bytes")}
        for name, found in results.items()
    }
    return {
        "image": image.name,
        "size": [height, width],
        "boxes": count,
        "seed": seed,
        "runs": runs,
        **medians,
        "speedup": speedup,
        "same_pixels_least": min(same),
        "same_pixels": statistics.fmean(same),
    }


def main(arguments: Sequence[str]) -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser("benchmark prompts", description=__doc__.split("\n\n")[0])
    parser.add_argument("--image", type=Path, default=skimage_photograph("coffee.png"), help="a photograph")
    parser.add_argument("--boxes", type=int, default=500, help="boxes on it")
    parser.add_argument("--seed", type=int, default=0, help="of the boxes")
    parser.add_argument("--runs", type=int, default=3, help="runs of each")
    parser.add_argument("--name", default="prompts", help="of the result file")
    parsed = parser.parse_args(arguments)
    result = compare(parsed.image, parsed.boxes, parsed.seed, parsed.runs)
    columns = (
        "boxes",
        "official s",
        "ours s",
        "speed-up",
        "official MiB",
        "ours MiB",
        "same pixels",
        "of one at least",
    )
    cells = [str(parsed.boxes), *(f"{result[name]['seconds']:.2f}" for name in NAMES), f"{result['speedup']:.2f}"]
    cells += [f"{result[name]['peak_bytes'] / 2**20:.0f}" for name in NAMES]
    cells += [f"{100 * result[name]:.4f} %" for name in ("same_pixels", "same_pixels_least")]
    print_table(columns, [cells])
    write_result(parsed.name, result)


if __name__ == "__main__":
    chosen, *files = sys.argv[1:]
    sys.stdout.write("\n" + json.dumps(one(chosen, *map(Path, files))) + "\n")
