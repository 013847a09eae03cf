"""`plan --estimate` beside the run itself: seconds, for three kinds of input.

Each pair is an estimate and then the run, in processes of their own, with an output of their own; the seconds of the
run are those that `annotate` prints. A folder of photographs of 300 to 3,000 pixels; a tar archive of small ones, from
96 to 256 pixels; photographs with one to thirty boxes each from a COCO file. Sizes and numbers are at random, the same
each time.

An estimate says what the machine does while it runs. Where others work too, the run may get another share of the cores
than the sample did. So the benchmark counts the cores that each of the two kept busy, from the start of the decoder on,
and a second ratio is that of estimated core seconds to those of the run.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

from benchmarks.photographs import photographs
from benchmarks.report import print_table, write_result
from tests.processes import Program

_TIMEOUT_S = 3600


def main(arguments: list[str]) -> None:
    """Parse, run, print, write."""
    parser = argparse.ArgumentParser(prog="jobs.benchmark run_estimates", description=__doc__)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--images", type=int, default=120)
    parser.add_argument("--points-per-side", type=int, default=16)
    parser.add_argument("--pairs", type=int, default=2)
    options = parser.parse_args(arguments)
    found = []
    with tempfile.TemporaryDirectory(prefix="estimates-") as scratch:
        for kind in options.kinds:
            folder = Path(scratch) / kind
            folder.mkdir()
            flags = KINDS[kind](folder, options.images)
            flags += ["--model-type", "vit_t", "--points-per-side", str(options.points_per_side)]
            for _ in range(options.pairs):
                found.append({"kind": kind, "images": options.images, **_pair(flags)})
                _print(found[-1:])
    _print(found)
    write_result("run_estimates", {"pairs": found})


def folder_of_photographs(folder: Path, num_images: int) -> list[str]:
    """Write photographs of different sizes; returns the flags that name them."""
    photos = folder / "photos"
    photos.mkdir()
    for number, image in enumerate(_images(num_images, 300, 3000)):
        image.save(photos / f"{number:04}.jpg", quality=90)
    return ["--input", str(photos)]


def tar_of_small_images(folder: Path, num_images: int) -> list[str]:
    """Write a tar archive; returns the flags that name it."""
    with tarfile.open(folder / "images.tar", "w") as archive:
        for number, image in enumerate(_images(num_images, 96, 256)):
            buffer = io.BytesIO()
            image.save(buffer, "JPEG", quality=90)
            member = tarfile.TarInfo(f"{number:04}.jpg")
            member.size = buffer.tell()
            buffer.seek(0)
            archive.addfile(member, buffer)
    return ["--input", str(folder / "images.tar")]


def photographs_with_boxes(folder: Path, num_images: int) -> list[str]:
    """Write photographs and a COCO file with boxes; returns the flags that name them."""
    flags = folder_of_photographs(folder, num_images)
    generator = np.random.default_rng(1)
    images, annotations = [], []
    for number in range(num_images):
        name = f"{number:04}.jpg"
        with Image.open(folder / "photos" / name) as image:
            width, height = image.size
        images.append({"id": number, "file_name": name, "width": width, "height": height})
        for _ in range(int(generator.integers(1, 31))):
            x, y, w, h = generator.random(4) * (0.6 * width, 0.6 * height, 0.4 * width, 0.4 * height)
            box = [float(value) for value in (x, y, w + 8, h + 8)]
            annotations.append({"id": len(annotations), "image_id": number, "category_id": 1, "bbox": box})
    categories = [{"id": 1, "name": "thing"}]
    boxes = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "boxes.json").write_text(json.dumps(boxes))
    return [*flags, "--prompts", str(folder / "boxes.json")]


KINDS: Mapping[str, Callable[[Path, int], list[str]]] = {
    "photographs": folder_of_photographs,
    "tar": tar_of_small_images,
    "boxes": photographs_with_boxes,
}


def _images(num_images: int, least: int, most: int) -> Any:
    """Photographs whose longer sides are between two numbers of pixels, small ones as often as large ones."""
    sources, generator = photographs(), np.random.default_rng(0)
    for number in range(num_images):
        side = int(np.exp(generator.uniform(np.log(least), np.log(most))))
        with Image.open(sources[number % len(sources)]) as image:
            ratio = side / max(image.size)
            yield image.convert("RGB").resize([max(1, round(ratio * length)) for length in image.size])


def _pair(flags: Sequence[str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="run-") as output:
        printed, estimate_s, estimate_cores = _run("plan", "--estimate", "--json", *flags, "--output", output)
        estimate = json.loads(printed)
        printed, wall_s, run_cores = _run("annotate", *flags, "--output", output)
    time_text = next(line.split()[1] for line in printed.splitlines() if line.startswith("time "))
    hours, minutes, seconds = map(int, time_text.split(":"))
    run_s = timedelta(hours=hours, minutes=minutes, seconds=seconds).total_seconds()
    estimated_s = estimate["run"]["time_s"]
    return {
        "estimated_s": estimated_s,
        "run_s": run_s,
        "ratio": estimated_s / run_s,
        "ratio_of_core_s": estimated_s * estimate_cores / (run_s * run_cores),
        "estimate_cores": estimate_cores,
        "run_cores": run_cores,
        "wall_s": wall_s,
        "estimate_s": estimate_s,
        "estimate": estimate,
    }


class _Cores:
    """How many cores a program and all that it started keep busy, from the start of its decoder on."""

    def __init__(self) -> None:
        self._cpu_s: dict[int, float] = {}
        self._looks: list[tuple[float, float]] = []

    def look(self, program: Program) -> None:
        """Once a second."""
        now = time.monotonic()
        if self._looks and now - self._looks[-1][0] < 1:
            return
        is_decoding = bool(self._looks)
        for process in program.members():
            with suppress(psutil.Error):
                used, title = process.cpu_times(), process.cmdline()
                self._cpu_s[process.pid] = used.user + used.system
                is_decoding |= any("MapBatches(Decoder)" in word for word in title)
        if is_decoding:
            self._looks.append((now, sum(self._cpu_s.values())))

    def number(self) -> float:
        """Of cores."""
        (start, cpu_before), (end, cpu_after) = self._looks[0], self._looks[-1]
        return (cpu_after - cpu_before) / (end - start)


def _run(*arguments: str) -> tuple[str, float, float]:
    """What a command prints, how long it takes, and how many cores it keeps busy."""
    cores = _Cores()
    with tempfile.TemporaryDirectory(prefix="log-") as log:
        command = [str(Path(sys.executable).with_name("sam-pipeline")), *arguments]
        program = Program(command, os.environ, Path(log))
        try:
            finished = program.wait(watch=lambda: cores.look(program), timeout_s=_TIMEOUT_S)
        finally:
            program.kill()
    if finished.exit_code:
        raise RuntimeError(finished.stderr)
    return finished.stdout, finished.elapsed_s, cores.number()


def _print(found: Sequence[Mapping[str, Any]]) -> None:
    rows = [
        (
            each["kind"],
            str(each["estimate"]["sample"]["num_images"]),
            f"{each['estimated_s']:.0f}",
            f"{each['run_s']:.0f}",
            f"{each['ratio']:.2f}",
            f"{each['estimate_cores']:.2f}",
            f"{each['run_cores']:.2f}",
            f"{each['ratio_of_core_s']:.2f}",
            f"{each['estimate_s']:.0f}",
        )
        for each in found
    ]
    columns = ("input", "images in the sample", "estimated s", "run s", "ratio")
    print_table((*columns, "cores", "of the run", "ratio of core s", "estimating took s"), rows)
