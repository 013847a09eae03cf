"""What the graph itself costs: the pipeline with an engine that computes nothing, on logical GPUs or on CPUs.

The run is that of the product: Ray, plan, reading, actors, writing, commits. Only the engine is that of the fault
tests, with crops and embeddings of the sizes asked for. Images are PNGs of 8 x 8 pixels on the local disk. With
--unread nothing is fetched and decoded either, for runs of a million images; --seconds ends a run early.

CPU an image is counted from the moment a tenth of the images is done to the last one; what the driver took before, and
until the first commit, is told apart. Memory is private memory; of the object store, all that was ever written. The
driver's growth is measured over the same period.
"""

from __future__ import annotations

import argparse
import bisect
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil

from benchmarks.commands.planning import write_manifest
from benchmarks.measured.orchestration_run import Setup
from benchmarks.measured.process_watch import ProcessWatch, Sample
from benchmarks.report import append_result, print_table
from tests.faults.fake_engine import image_file
from tests.processes import Program, clean_env

ROOT = Path(__file__).parents[2]

KINDS = ("driver", "raylet", "gcs", "reading", "encoder", "decoder", "writing", "monitor")
"""Those in the table; the result file has all."""

_START_SHARE = 0.1
_IMAGES_A_FILE = 10_000
_MEMORY_POINTS = 40


def main(arguments: Sequence[str]) -> None:
    """Parse, run, print, write."""
    parser = argparse.ArgumentParser(
        "benchmark orchestration", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--gpus", type=int, default=8, help="logical ones; 0 is a run on CPUs")
    parser.add_argument("--cpus", type=int, default=16, help="logical ones; more of them start more processes")
    parser.add_argument("--crop-size", type=int, default=592, help="height and width; a byte for each colour")
    parser.add_argument("--embedding-bytes", type=int, default=2 * 2**20)
    parser.add_argument("--batch-size", type=int, help="of the encoder; default: what the division gives")
    parser.add_argument("--shard-rows", type=int, default=256)
    parser.add_argument("--object-store-mb", type=int, default=2048)
    parser.add_argument("--unread", action="store_true", help="fetch and decode nothing")
    parser.add_argument("--seconds", type=float, help="end the run after so long")
    parser.add_argument("--name", default="orchestration", help="of the result file, to which the run is added")
    options = parser.parse_args(arguments)
    setup = Setup(
        images=options.images,
        cpus=options.cpus,
        gpus=options.gpus,
        crop_size=options.crop_size,
        embedding_bytes=options.embedding_bytes,
        batch_size=options.batch_size,
        shard_rows=options.shard_rows,
        object_store_bytes=options.object_store_mb * 2**20,
        unread=options.unread,
        limit_s=options.seconds,
        decode_s=0.0,
        decode_actors=None,
        nodes=1,
    )
    result = measure(setup)
    _print(result)
    append_result(options.name, {"setup": asdict(setup), **result})


def measure(setup: Setup) -> dict[str, Any]:
    """Plan and run, each in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="orchestration-") as scratch, clean_env(Path(scratch) / "none") as env:
        folder = Path(scratch)
        env |= {"PYTHONPATH": str(ROOT)}
        source = folder / "list.parquet" if setup.unread else folder / "images"
        (write_manifest if setup.unread else write_images)(source, setup.images)
        run("plan", setup, source, folder, env)
        return run("annotate", setup, source, folder, env)


def write_images(folder: Path, num_images: int) -> None:
    """Write small images that are few files with many names."""
    for number in range(num_images):
        group = folder / f"{number // _IMAGES_A_FILE:05}"
        first = group / f"{number // _IMAGES_A_FILE * _IMAGES_A_FILE:08}.png"
        if number % _IMAGES_A_FILE == 0:
            group.mkdir(parents=True)
            first.write_bytes(image_file(number // _IMAGES_A_FILE + 1))
        else:
            os.link(first, group / f"{number:08}.png")


def run(command: str, setup: Setup, source: Path, folder: Path, env: Mapping[str, str]) -> dict[str, Any]:
    log = folder / command
    log.mkdir()
    words = (command, json.dumps(asdict(setup)), str(source), str(folder / "output"))
    program = Program([sys.executable, "-m", "benchmarks.measured.orchestration_run", *words], env, log)
    try:
        watch = ProcessWatch(psutil.Process(program.process.pid), program.members)
        watch.run(lambda: program.process.poll() is not None)
    finally:
        program.kill()
    if program.process.returncode:
        sys.exit(f"the run failed with exit code {program.process.returncode}:\n{program.stderr()[-4000:]}")
    # Ray prints there too.
    lines = [line for line in (log / "stdout").read_text().splitlines() if line.startswith('{"event"')]
    events = [json.loads(line) for line in lines]
    return figures(events, watch.samples, setup.images) if command == "annotate" else {}


def figures(events: Sequence[Mapping[str, Any]], samples: Sequence[Sample], num_images: int) -> dict[str, Any]:
    """What a run says of itself.

    Args:
        events: see orchestration_run.
        samples: of its processes.
        num_images: how many were to be done.
    """
    start = next(event for event in events if event["event"] == "start")["time_s"]
    progress = [event for event in events if event["event"] == "progress"]
    last = progress[-1]
    first_commit = next((event["time_s"] for event in progress if event["committed"]), None)
    begin = [event for event in progress if event["done"] <= _START_SHARE * last["done"]][-1]
    images, seconds = last["done"] - begin["done"], last["time_s"] - begin["time_s"]
    before, after = _at(samples, begin["time_s"]), _at(samples, last["time_s"])
    cpu_s = {kind: after.cpu_s[kind] - before.cpu_s[kind] for kind in after.cpu_s}
    thinned = [*progress[:: -(-len(progress) // _MEMORY_POINTS)], last]
    return {
        "images_done": last["done"],
        "images_asked_for": num_images,
        "images_per_s": images / seconds,
        "first_commit_s": None if first_commit is None else first_commit - start,
        "total_s": events[-1]["time_s"] - start,
        "driver_start_cpu_s": before.cpu_s["driver"],
        "cpu_ms_per_image": {kind: 1000 * value / images for kind, value in sorted(cpu_s.items())},
        "driver_growth_bytes_per_image": (after.memory_bytes - before.memory_bytes) / images,
        "memory": [{"images": event["done"], **_memory_mib(_at(samples, event["time_s"]))} for event in thinned],
    }


def _memory_mib(sample: Sample) -> dict[str, float]:
    """Of the driver, Ray's control service and its object stores."""
    taken = {"driver": sample.memory_bytes, "gcs": sample.gcs_bytes, "store": sample.store_bytes}
    return {f"{name}_mib": round(num_bytes / 2**20, 1) for name, num_bytes in taken.items()}


def _at(samples: Sequence[Sample], time_s: float) -> Sample:
    """The last sample before a time."""
    return samples[max(0, bisect.bisect([sample.time_s for sample in samples], time_s) - 1)]


def _print(result: Mapping[str, Any]) -> None:
    cpu_ms = result["cpu_ms_per_image"]
    first, memory = result["first_commit_s"], [*result["memory"][::8], result["memory"][-1]]
    rows = [
        ("images", f"{result['images_done']:,} of {result['images_asked_for']:,}"),
        ("images/s after the start", f"{result['images_per_s']:.0f}"),
        ("first commit, s", "none" if first is None else f"{first:.1f}"),
        ("driver's start, CPU s", f"{result['driver_start_cpu_s']:.1f}"),
        *((f"{kind}, CPU ms an image", f"{cpu_ms.get(kind, 0):.2f}") for kind in KINDS),
        ("all processes, CPU ms an image", f"{sum(cpu_ms.values()):.2f}"),
        ("driver's memory, bytes an image", f"{result['driver_growth_bytes_per_image']:.0f}"),
        *((f"  MiB at {point['images']:,} images: driver, GCS, object store", _mib(point)) for point in memory),
    ]
    print_table(("", ""), rows)


def _mib(point: Mapping[str, float]) -> str:
    return ", ".join(f"{point[f'{name}_mib']:.0f}" for name in ("driver", "gcs", "store"))
