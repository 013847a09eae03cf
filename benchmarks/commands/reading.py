"""What an image costs the CPU beside the networks: from JPEG to crop, from embedding to Arrow, and a tiny one at all.

CPU milliseconds an image, on one thread, without Ray. read: a JPEG of 2250 x 1500 pixels in memory to its row in Arrow.
embed: the encoder's output, fp16 with its channels last, to Arrow; here on the CPU, where nothing is copied from a
device. tiny: an image of 8 x 8 pixels on disk to its row, with what was planned for it, for the fake engine.

With --against, the same is measured in another checkout in turn, each time in a new process.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
COLUMNS = ("read", "embed", "tiny")

_SIZE = (2250, 1500)
_BATCH = 4
_NUM_TINY = 512


def jpeg(quality: int) -> bytes:
    """A photograph of scikit-image's with the grain of a camera, enlarged."""
    from benchmarks.photographs import read_photograph, skimage_photograph

    image = Image.fromarray(read_photograph(skimage_photograph("astronaut.png"))).resize(
        _SIZE, Image.Resampling.BICUBIC
    )
    grain = np.random.default_rng(0).normal(0, 6, (*_SIZE[::-1], 1))
    file = io.BytesIO()
    Image.fromarray(np.clip(np.asarray(image) + grain, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=quality)
    return file.getvalue()


def measure(data: bytes, repeats: int) -> dict[str, float]:
    """CPU milliseconds an image, in this process and with the code that it imports."""
    from sam_pipeline.config import AnnotateConfig
    from tests.pipeline.jobs import job_of

    job = job_of(AnnotateConfig(output="run"))
    images, read_ms = _read(data, job, repeats)
    return {"read": read_ms, "embed": _embed(images, job, repeats), "tiny": _tiny()}


def _read(data: bytes, job: Any, repeats: int) -> tuple[pa.Table, float]:
    """The rows of a batch, and what one took."""
    from sam_pipeline.pipeline.workers import stages
    from sam_pipeline.pipeline.workers.blocks import images_of
    from sam_pipeline.pipeline.workers.columns import chunks_of
    from sam_pipeline.storage.inputs.source_object import SourceObject
    from tests.pipeline.jobs import Monitor

    source = SourceObject("image.jpg", None, None)
    planned = [stages.PlannedImage(number, source, []) for number in range(_BATCH)]
    (chunk,) = chunks_of(np.arange(_BATCH), _BATCH)
    with (
        patch.object(stages, "planned_images", lambda *_: planned),
        patch.object(stages, "fetch_planned", lambda *_: [data] * _BATCH),
    ):
        blocks, seconds = _timed(lambda: list(stages.read_images(chunk, job, _BATCH, Monitor())), repeats)
    return pa.concat_tables(map(images_of, blocks)), 1000 * seconds / _BATCH


def _embed(images: pa.Table, job: Any, repeats: int) -> float:
    import torch

    from sam_pipeline.pipeline.workers import engine as engine_module
    from sam_pipeline.pipeline.workers.fitting_size import FittingSize
    from sam_pipeline.pipeline.workers.stages import encode_images

    torch.set_num_threads(1)
    embeddings = torch.rand(_BATCH, 256, 64, 64).to(torch.float16, memory_format=torch.channels_last)
    # Without weights: only what carries embeddings on is measured.
    engine = engine_module.SamEngine.__new__(engine_module.SamEngine)
    engine._job, engine._sam, engine._dtype = job, None, torch.float16  # type: ignore[assignment]  # no model
    engine._crops_at_once = FittingSize("crops")
    with patch.object(engine_module.prediction, "encode", lambda *_: embeddings):
        _, seconds = _timed(lambda: encode_images(images, engine, _BATCH, job), repeats)
    return 1000 * seconds / _BATCH


def _tiny() -> float:
    from sam_pipeline.config import AnnotateConfig, InputConfig, PlanConfig
    from sam_pipeline.pipeline.plan import ensure_plan
    from sam_pipeline.pipeline.workers.columns import chunks_of
    from sam_pipeline.pipeline.workers.stages import read_images
    from tests.faults.fake_engine import Instructions, fake_backend, image_file
    from tests.pipeline.jobs import Monitor, job_of

    with tempfile.TemporaryDirectory() as folder:
        source, output = Path(folder) / "in", f"{folder}/run"
        source.mkdir()
        for number in range(_NUM_TINY):
            (source / f"{number:06}.png").write_bytes(image_file(number))
        ensure_plan(PlanConfig(output=output, images=InputConfig(input=str(source))))
        job = replace(job_of(AnnotateConfig(output=output)), backend=fake_backend(Instructions(crop_size=8)))
        (chunk,) = chunks_of(np.arange(_NUM_TINY), _NUM_TINY)
        _, seconds = _timed(lambda: list(read_images(chunk, job, 1, Monitor())), 3)
    return 1000 * seconds / _NUM_TINY


def _timed(call: Callable[[], Any], repeats: int) -> tuple[Any, float]:
    """What it returns, and the median of its CPU seconds after a first call that does not count."""
    result, seconds = call(), []
    for _ in range(repeats):
        start = time.process_time()
        result = call()
        seconds.append(time.process_time() - start)
    return result, statistics.median(seconds)


def in_checkout(checkout: Path, file: Path, repeats: int) -> dict[str, float]:
    """Measure with the code of a checkout, which may not know this command, in a process of its own."""
    # -P: not the folder of this file, whose modules are named after what they measure.
    command = [sys.executable, "-P", __file__, "--measure", str(file), "--repeats", str(repeats)]
    env = os.environ | {"PYTHONPATH": str(checkout)}
    answer = subprocess.run(command, cwd=checkout, env=env, check=True, stdout=subprocess.PIPE, text=True).stdout
    return dict(json.loads(answer.splitlines()[-1]))


def main(arguments: Sequence[str]) -> None:
    """Parse, run, print, write."""
    parser = argparse.ArgumentParser(
        "benchmark reading", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--against", type=Path, help="another checkout of this project")
    parser.add_argument("--rounds", type=int, default=5, help="processes a checkout; figures are medians of them")
    parser.add_argument("--repeats", type=int, default=15, help="measurements in a process")
    parser.add_argument("--quality", type=int, default=90, help="of the JPEG")
    parser.add_argument("--measure", type=Path, metavar="JPEG", help="measure a file in this process, and print JSON")
    options = parser.parse_args(arguments)
    if options.measure is not None:
        print(json.dumps(measure(options.measure.read_bytes(), options.repeats)))
        return
    from benchmarks.report import print_table, write_result

    checkouts = {"here": ROOT} | ({} if options.against is None else {"against": options.against.resolve()})
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in checkouts}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "image.jpg"
        file.write_bytes(jpeg(options.quality))
        for _ in range(options.rounds):
            for name, checkout in checkouts.items():
                rounds[name].append(in_checkout(checkout, file, options.repeats))
    rows = [(name, *(f"{_median(found)[column]:.2f}" for column in COLUMNS)) for name, found in rounds.items()]
    print_table(("CPU ms an image", *COLUMNS), rows)
    write_result("reading", {"rounds": rounds})


def _median(rounds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {column: statistics.median(one[column] for one in rounds) for column in COLUMNS}


if __name__ == "__main__":
    main(sys.argv[1:])
