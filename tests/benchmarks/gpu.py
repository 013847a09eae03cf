"""The bare engine on a GPU: images a second for the whole generator, and where the time of an image goes.

Needs torch, NumPy and Pillow. Of the other dependencies those that only fetch weights or repair masks may be missing;
without numba or pycocotools the CPU half of decoding (`finish`) is left out of every figure, and the result says so.

Weights: a checkpoint given as --checkpoint MODEL=PATH, else random ones. The time of an encoder does not depend on its
weights, that of the rest does: with --mobile-sam PATH, models without a checkpoint encode with random weights and
decode MobileSAM's embeddings with MobileSAM's decoder, which has the same architecture in all models.

Photographs are resized to the model's input before the clock starts: on a cluster other tasks do that.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tests.benchmarks.photographs import read_photograph, synthetic_photograph
from tests.benchmarks.report import write_result

FINISHERS = 4
"""Threads that finish masks while the device is busy with the next image."""

_NEEDED_TO_FINISH = ("numba", "pycocotools")
_NEEDED_ELSEWHERE = ("cv2", "fsspec", "platformdirs", "pooch", "requests", "safetensors", "tenacity", "urllib3")


def stand_in_for_missing() -> list[str]:
    """Let the engine be imported where packages are missing that this benchmark does not call; their names."""
    missing = [name for name in (*_NEEDED_TO_FINISH, *_NEEDED_ELSEWHERE) if find_spec(name) is None]
    for name in missing:
        sys.modules[name] = mock.MagicMock(name=name)
    for name in ("fsspec.implementations", "fsspec.implementations.local", "urllib3.exceptions", "safetensors.torch"):
        if name.split(".")[0] in missing:
            sys.modules[name] = mock.MagicMock(name=name)
    return missing


class Engine:
    """A generator of masks whose halves are timed on their own.

    Args:
        model_type: as in `build_sam`.
        checkpoint: of this model; None for random weights.
        mobile_sam: MobileSAM's weights, for the decoder if there is no checkpoint.
        settings: of the masks.
        precision: of the generator.
        device: where it runs.
    """

    def __init__(
        self,
        model_type: str,
        checkpoint: Path | None,
        mobile_sam: Path | None,
        settings: dict[str, Any],
        precision: Any,
        device: str,
    ) -> None:
        from sam_pipeline.config import MaskConfig
        from sam_pipeline.masks.generator import MaskGenerator
        from sam_pipeline.model.registry import build_sam

        sam = build_sam(model_type, checkpoint)
        config = MaskConfig(**settings)
        self.weights = "checkpoint" if checkpoint else "random"
        self._reference = None
        if checkpoint is None and mobile_sam is not None:
            small = build_sam("vit_t", mobile_sam)
            sam.prompt_encoder, sam.mask_decoder = small.prompt_encoder, small.mask_decoder
            self._reference = MaskGenerator(small.to(device), config)
            self.weights = "random encoder; decoder and its embeddings of MobileSAM"
        self.generator = MaskGenerator(sam.to(device), config, precision)

    def embeddings_to_decode(self, input_images: Sequence[NDArray[np.uint8]]) -> list[Tensor]:
        """Embeddings with the statistics that the decoder's weights know, one (1, 256, 64, 64) an image."""
        generator = self._reference or self.generator
        return [generator.encode([image]).to(self.generator.sam.device) for image in input_images]


def measure(
    engine: Engine, images: Sequence[NDArray[np.uint8]], batch_size: int, repeats: int, can_finish: bool
) -> dict[str, Any]:
    """Milliseconds an image by stage, then images a second with all stages overlapping."""
    from sam_pipeline.masks.crops import prepare_crops

    generator = engine.generator
    device = generator.sam.device
    inputs = [prepare_crops(image, generator.config)[0] for image in images]
    sizes = [image.shape[:2] for image in images]
    embeddings = engine.embeddings_to_decode(inputs)
    batches = [inputs[i : i + batch_size] for i in range(0, len(inputs), batch_size)]

    generator.encode(batches[0])
    masks = [generator.detect(one, size) for one, size in zip(embeddings, sizes, strict=True)]  # warm-up too
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    encode_ms = _device_ms(lambda: [generator.encode(batch) for batch in batches], repeats, device) / len(images)
    detect_ms = _device_ms(
        lambda: [generator.detect(one, size) for one, size in zip(embeddings, sizes, strict=True)], repeats, device
    ) / len(images)
    found: dict[str, Any] = {"encode_ms": encode_ms, "detect_ms": detect_ms, "finish_ms": None, "masks": None}
    if can_finish:
        generator.finish(masks[0])
        start = time.perf_counter()
        found["masks"] = [len(generator.finish(one)) for one in masks]
        found["finish_ms"] = (time.perf_counter() - start) * 1000 / len(images)

    def whole() -> None:
        with ThreadPoolExecutor(FINISHERS) as pool:
            finishing = []
            for first in range(0, len(inputs), batch_size):
                encoded = generator.encode(inputs[first : first + batch_size])
                for i, own in enumerate(encoded, start=first):
                    decodable = own[None] if engine.weights in ("checkpoint", "random") else embeddings[i]
                    detections = generator.detect(decodable, sizes[i])
                    if can_finish:
                        finishing.append(pool.submit(generator.finish, detections))
            for one in finishing:
                one.result()

    seconds = [_wall_s(whole, device) for _ in range(repeats)]
    found["images_per_s"] = len(images) / statistics.median(seconds)
    found["peak_device_bytes"] = torch.cuda.max_memory_allocated() if device.type == "cuda" else None
    return found


def _device_ms(work: Callable[[], object], repeats: int, device: torch.device) -> float:
    """Median milliseconds between two events on the device, or by the clock on a CPU."""
    if device.type != "cuda":
        return statistics.median(_wall_s(work, device) for _ in range(repeats)) * 1000
    times = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)


def _wall_s(work: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main(arguments: Sequence[str]) -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(
        "benchmark gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", type=Path, nargs="*", help="photographs; by default synthetic images")
    parser.add_argument("--num-images", type=int, default=16, help="synthetic images")
    parser.add_argument("--size", type=int, nargs=2, default=(2250, 1500), help="width and height of those")
    parser.add_argument("--model-types", nargs="+", default=["vit_h", "vit_b", "vit_t"])
    parser.add_argument("--precisions", nargs="+", choices=("bf16", "fp32"), default=["bf16", "fp32"])
    parser.add_argument("--batch-size", type=int, default=8, help="images an encoder call")
    parser.add_argument("--settings", type=json.loads, default={}, help="JSON of mask settings, official defaults")
    parser.add_argument("--checkpoint", action="append", default=[], help="MODEL=PATH; may be given again")
    parser.add_argument("--mobile-sam", type=Path, help="MobileSAM's weights, for models without a checkpoint")
    parser.add_argument("--repeats", type=int, default=3, help="figures are medians of so many")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--output", type=Path, help="result file, in place of tests/benchmarks/results/gpu.json")
    parsed = parser.parse_args(arguments)
    if parsed.settings.get("crop_n_layers", 0):
        parser.error("measures one crop an image: crop_n_layers must be 0")

    missing = stand_in_for_missing()
    can_finish = not set(missing) & set(_NEEDED_TO_FINISH)
    if not can_finish:
        print(f"without finish: {', '.join(_NEEDED_TO_FINISH)} must be installed for it")
    checkpoints = {name: Path(path) for name, path in (pair.split("=", 1) for pair in parsed.checkpoint)}
    if parsed.images:
        images = [read_photograph(path) for path in parsed.images]
    else:
        images = [synthetic_photograph(*parsed.size, seed) for seed in range(parsed.num_images)]

    rows = []
    for model_type in parsed.model_types:
        for precision in parsed.precisions:
            checkpoint = checkpoints.get(model_type, parsed.mobile_sam if model_type == "vit_t" else None)
            engine = Engine(model_type, checkpoint, parsed.mobile_sam, parsed.settings, precision, parsed.device)
            row = measure(engine, images, parsed.batch_size, parsed.repeats, can_finish)
            rows.append({"model_type": model_type, "precision": precision, "weights": engine.weights, **row})
            print(json.dumps(rows[-1]), flush=True)
    setup = {
        "images": "photographs" if parsed.images else "synthetic",
        "sizes_hw": sorted({image.shape[:2] for image in images}),
        "num_images": len(images),
        "batch_size": parsed.batch_size,
        "repeats": parsed.repeats,
        "settings": parsed.settings,
        "missing_packages": missing,
    }
    write_result("gpu", {**setup, "rows": rows}, parsed.output)
