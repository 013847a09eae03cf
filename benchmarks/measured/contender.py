"""One generator on one photograph, in a process of its own.

    python -m benchmarks.measured.contender NAME IMAGE SETTINGS CHECKPOINT

The last line it prints is JSON: seconds for the whole generator (weights loaded, first call already made on a small
grid, so that compilation and page faults are not counted), seconds by stage, peak memory of the process, versions
and the masks; or the error that kept it from running. A contender is imported only when it is named, since peers run
in an environment of their own, which has few of the project's dependencies.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.measured import peers
from benchmarks.measured.peers import Generate
from benchmarks.measured.stages import StageClock
from benchmarks.photographs import PEERS_ENVIRONMENT, read_photograph
from benchmarks.report import versions

if TYPE_CHECKING:
    from sam_pipeline.config import ResolvedPrecision


def ours(settings: dict[str, Any], checkpoint: Path, precision: ResolvedPrecision = "fp32") -> Generate:
    """This project's generator."""
    from sam_pipeline.config import MaskConfig
    from sam_pipeline.masks.generator import MaskGenerator
    from sam_pipeline.model.registry import build_sam

    generator = MaskGenerator(build_sam("vit_t", checkpoint), MaskConfig(**settings), precision)
    return lambda image: [record.to_dict() for record in generator.generate(image)]


def official(settings: dict[str, Any], checkpoint: Path) -> Generate:
    """The generator of segment_anything 1.0 with MobileSAM's own encoder."""
    from tests.parity.oracle import official_generator, official_mobile_sam

    sam = official_mobile_sam(torch.load(checkpoint, weights_only=True))
    generate: Generate = official_generator(sam, output_mode="coco_rle", **settings).generate
    return generate


CONTENDERS: dict[str, Callable[[dict[str, Any], Path], Generate]] = {
    "official": official,
    "ours": ours,
    "transformers": peers.transformers,
    "ultralytics": peers.ultralytics,
    "segment-anything-fast": peers.segment_anything_fast,
}
PEERS = ("transformers", "ultralytics", "segment-anything-fast")


def run_contender(
    name: str, image: Path, settings: dict[str, Any], checkpoint: Path, environment: dict[str, str] | None = None
) -> dict[str, Any]:
    """Run this module on one photograph, a peer with the peers' interpreter.

    Returns:
        What the process printed; for a peer that does not run, {"error": …}.

    Raises:
        RuntimeError: ours or the official one failed.
    """
    python = PEERS_ENVIRONMENT / "bin" / "python" if name in PEERS else Path(sys.executable)
    if not python.exists():
        return {"error": f"there is no {PEERS_ENVIRONMENT}: `make bench` makes it"}
    command = [str(python), "-m", __name__, name, str(image), json.dumps(settings), str(checkpoint)]
    printed = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment).stdout
    lines = printed.splitlines()
    result: dict[str, Any] = json.loads(lines[-1]) if lines else {"error": "the process died"}
    if "error" in result and name not in PEERS:
        raise RuntimeError(f"{name} on {image.name}: {result['error']}")
    return result


def measure(name: str, image: NDArray[np.uint8], settings: dict[str, Any], checkpoint: Path) -> dict[str, Any]:
    """Time one generator in this process."""
    make = CONTENDERS[name]
    make(settings | {"points_per_side": 2, "crop_n_layers": 0}, checkpoint)(image)
    clock = StageClock()
    clock.watch(name)
    generate = make(dict(settings), checkpoint)
    clock.reset()  # what building a model called
    start = time.perf_counter()
    masks = generate(image)
    seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "stages": clock.seconds(seconds),
        "peak_bytes": peak_bytes(),
        "versions": versions((name, "torch", "numpy", "pillow")),
        "masks": masks,
    }


def peak_bytes() -> int:
    """Most memory this process has had in use.

    Not ru_maxrss on Linux: a child starts with that of its parent.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024


def main(name: str, image_path: str, settings_json: str, checkpoint: str) -> None:
    """Run and print."""
    try:
        result = measure(name, read_photograph(image_path), json.loads(settings_json), Path(checkpoint))
    except Exception as error:  # noqa: BLE001  whatever a peer raises is what is reported
        traceback.print_exc()
        result = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    sys.stdout.write("\n" + json.dumps(result) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
