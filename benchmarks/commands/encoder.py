"""The image encoder alone, ours beside the official one, on one photograph with random weights.

Both load the same random weights from one file, each in a process of its own; the two take turns, and figures are
medians. The work of an encoder does not depend on the weights, so that no checkpoint is needed.

    python -m benchmarks.commands.encoder NAME MODEL_TYPE WEIGHTS IMAGE EMBEDDING

is one such process: it prints seconds and peak memory as JSON and saves its embedding.
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

import torch
from torch import Tensor

from benchmarks.measured.contender import peak_bytes
from benchmarks.photographs import read_photograph, skimage_photograph
from benchmarks.report import print_table, write_result
from sam_pipeline.masks.geometry.resize import resize_image
from sam_pipeline.masks.prediction import encode
from sam_pipeline.model.registry import build_sam
from tests.parity.oracle import official_mobile_sam, official_sam, randomise, relative_difference

NAMES = ("official", "ours")


def official(model_type: str, weights: Path | None) -> Any:
    """The official model; for vit_t MobileSAM's own."""
    state_dict = None if weights is None else torch.load(weights, weights_only=True, mmap=True)
    return official_mobile_sam(state_dict) if model_type == "vit_t" else official_sam(model_type, state_dict)


def one(name: str, model_type: str, weights: Path, image: Path, embedding: Path) -> dict[str, float]:
    """Encode once to warm up, once to measure, and keep the embedding."""
    pixels = resize_image(read_photograph(image), 1024)
    encoder: Callable[[], Tensor]
    if name == "ours":
        sam = build_sam(model_type, weights)
        encoder = torch.inference_mode()(lambda: encode(sam, [pixels]))
    else:
        reference = official(model_type, weights)
        tensor = torch.from_numpy(pixels).permute(2, 0, 1)[None]
        encoder = torch.no_grad()(lambda: reference.image_encoder(reference.preprocess(tensor)))
    encoder()
    start = time.perf_counter()
    found = encoder()
    seconds = time.perf_counter() - start
    torch.save(found, embedding)
    return {"seconds": seconds, "peak_bytes": peak_bytes()}


def compare(model_type: str, image: Path, runs: int) -> dict[str, Any]:
    """Medians of both, and how far their embeddings differ."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        weights = folder / "weights.pth"
        model = official(model_type, None)
        randomise(model)
        torch.save(model.state_dict(), weights)
        del model
        results: dict[str, list[dict[str, float]]] = {name: [] for name in NAMES}
        for _ in range(runs):
            for name in NAMES:
                words = [name, model_type, str(weights), str(image), str(folder / name)]
                command = [sys.executable, "-m", "benchmarks.commands.encoder", *words]
                printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
                results[name].append(json.loads(printed.splitlines()[-1]))
        theirs, ours = (torch.load(folder / name, weights_only=True) for name in NAMES)
    medians = {
        name: {key: statistics.median(result[key] for result in found) for key in ("seconds", "peak_bytes")}
        for name, found in results.items()
    }
    speedup = statistics.median(slow["seconds"] / fast["seconds"] for slow, fast in zip(*results.values(), strict=True))
    return {"model_type": model_type, **medians, "speedup": speedup, "difference": relative_difference(ours, theirs)}


def main(arguments: Sequence[str]) -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser("benchmark encoder", description=__doc__.split("\n\n")[0])
    parser.add_argument("--model-type", nargs="+", default=["vit_b"], help="vit_h, vit_l, vit_b, vit_t")
    parser.add_argument("--image", type=Path, default=skimage_photograph("coffee.png"), help="a photograph")
    parser.add_argument("--runs", type=int, default=3, help="runs of each encoder")
    parser.add_argument("--name", default="encoder", help="of the result file")
    parsed = parser.parse_args(arguments)
    rows = [compare(model_type, parsed.image, parsed.runs) for model_type in parsed.model_type]
    columns = ("model", "official s", "ours s", "speed-up", "official MiB", "ours MiB", "relative difference")
    print_table(columns, [_cells(row) for row in rows])
    write_result(parsed.name, {"weights": "random", "runs": parsed.runs, "rows": rows})


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    official, ours = (row[name] for name in NAMES)
    return (
        row["model_type"],
        f"{official['seconds']:.2f}",
        f"{ours['seconds']:.2f}",
        f"{row['speedup']:.2f}",
        f"{official['peak_bytes'] / 2**20:.0f}",
        f"{ours['peak_bytes'] / 2**20:.0f}",
        f"{row['difference']:.0e}",
    )


if __name__ == "__main__":
    chosen, model, *files = sys.argv[1:]
    sys.stdout.write(json.dumps(one(chosen, model, *map(Path, files))) + "\n")
