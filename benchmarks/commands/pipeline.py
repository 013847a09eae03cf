"""The whole pipeline against the bare engine, in images per second on this machine.

The pipeline is the `annotate` command in a process of its own: it starts Ray, plans, reads, encodes, decodes, writes
and commits. Starting takes the same time for few images and for many, and is not what a rate is about; so both run,
and the rate is the further images over the further seconds. The bare engine is `MaskGenerator.generate` in a loop over
the same files, without anything else, after a first call that is not counted.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from benchmarks.photographs import photographs, read_photograph
from benchmarks.report import print_table, write_result
from sam_pipeline.config import MaskConfig
from sam_pipeline.masks.generator import MaskGenerator
from sam_pipeline.model.checkpoints import fetch_checkpoint
from sam_pipeline.model.registry import build_sam

_BARE = "import sys; from benchmarks.commands.pipeline import bare; bare(sys.argv[1], int(sys.argv[2]))"


def bare(folder: str, points_per_side: int) -> None:
    """Print the seconds that the bare engine takes for the images of a folder."""
    config = MaskConfig(points_per_side=points_per_side)
    generator = MaskGenerator(build_sam("vit_t", fetch_checkpoint("vit_t")), config)
    files = sorted(Path(folder).iterdir())
    generator.generate(read_photograph(files[0]))
    start = time.perf_counter()
    for file in files:
        generator.generate(read_photograph(file))
    sys.stdout.write(json.dumps(time.perf_counter() - start) + "\n")


def main(arguments: list[str]) -> None:
    """Parse, run, print, write."""
    parser = argparse.ArgumentParser(prog="jobs.benchmark pipeline", description=__doc__)
    parser.add_argument("--images", type=int, default=24, help="images of the longer run")
    parser.add_argument("--few", type=int, default=6, help="images of the shorter run")
    parser.add_argument("--points-per-side", type=int, default=16)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        many, few = (_folder(Path(scratch) / str(count), count) for count in (options.images, options.few))
        rounds = [
            {
                "bare_s": json.loads(_run([sys.executable, "-c", _BARE, str(many), str(options.points_per_side)])[0]),
                "few_s": _annotate(few, options.points_per_side),
                "many_s": _annotate(many, options.points_per_side),
            }
            for _ in range(options.runs)
        ]
    for one in rounds:
        one["bare_images_per_s"] = options.images / one["bare_s"]
        one["pipeline_images_per_s"] = (options.images - options.few) / (one["many_s"] - one["few_s"])
        one["ratio"] = one["pipeline_images_per_s"] / one["bare_images_per_s"]
    _print(rounds)
    write_result("pipeline", {"rounds": rounds})


def _folder(folder: Path, count: int) -> Path:
    """A folder of `count` JPEGs of 640 x 480 pixels: the photographs in turn, so that both folders hold like images."""
    folder.mkdir()
    sources = photographs()[:6]
    for index in range(count):
        with Image.open(sources[index % len(sources)]) as image:
            image.convert("RGB").resize((640, 480)).save(folder / f"{index:04}.jpg", quality=95)
    return folder


def _annotate(folder: Path, points_per_side: int) -> float:
    with tempfile.TemporaryDirectory() as output:
        command = [str(Path(sys.executable).with_name("sam-pipeline")), "annotate", "--model-type", "vit_t"]
        command += ["--points-per-side", str(points_per_side), "--input", str(folder), "--output", output]
        return _run(command)[1]


def _run(command: list[str]) -> tuple[str, float]:
    """What a command prints, and how long it takes."""
    start = time.perf_counter()
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return printed, time.perf_counter() - start


def _print(rounds: Sequence[Mapping[str, float]]) -> None:
    columns = ("bare_images_per_s", "pipeline_images_per_s", "ratio")
    rows = [(str(number), *(f"{one[column]:.3f}" for column in columns)) for number, one in enumerate(rounds, start=1)]
    medians = (f"{statistics.median(one[column] for one in rounds):.3f}" for column in columns)
    print_table(
        ("round", "bare engine, images/s", "pipeline, images/s", "pipeline / bare"), [*rows, ("median", *medians)]
    )
