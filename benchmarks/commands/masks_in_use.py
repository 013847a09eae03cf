"""What it takes to use a large run: filter, stats, export as COCO, open it as a torch dataset; each in its own process.

The run is synthetic (benchmarks/synthetic_run.py); --run takes one that is there. Seconds are those of the whole
command, from the start of the interpreter to its end. CPU seconds say what it would take on cores of its own. Memory is
the peak of the process. Bytes are those of the run's files that were read, where the command says so.

Ends with 1 where a bar is missed: a gigabyte of memory, 2000 images a second for COCO, two seconds to open the dataset,
and a twentieth of the bytes to choose a hundredth of the images.

    python -m benchmarks.commands.masks_in_use COMMAND …

is one such process: `sam-pipeline COMMAND …`, or `open-dataset RUN`, which prints what it took behind everything else.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.report import print_table, write_result
from benchmarks.synthetic_run import IMAGES_PER_FOLDER, write_run

MAX_BYTES = 10**9
MIN_COCO_IMAGES_PER_S = 2000
MAX_OPENING_S = 2
MAX_SHARE_READ = 0.05


def measure(name: str, arguments: Sequence[str], num_images: int) -> dict[str, Any]:
    """Run a command in a process of its own.

    Args:
        name: of the measurement.
        arguments: of the command.
        num_images: in the run.

    Returns:
        Seconds, CPU seconds and peak memory of the process, images a second, and bytes read where it says so.

    Raises:
        subprocess.CalledProcessError: it failed; it has said why.
    """
    command = [sys.executable, "-m", "benchmarks.commands.masks_in_use", *arguments]
    start = time.perf_counter()
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    seconds = time.perf_counter() - start
    took = dict(re.findall(r"^(cpu_s|peak_bytes|opening_s) ([\d.]+)$", printed, re.MULTILINE))
    read = re.search(r"^bytes read +(\d+)$", printed, re.MULTILINE)
    return {
        "what": name,
        "images": num_images,
        "seconds": float(took.get("opening_s", seconds)),
        "images_per_s": num_images / seconds,
        "cpu_s": float(took["cpu_s"]),
        "peak_bytes": int(took["peak_bytes"]),
        "bytes_read": None if read is None else int(read[1]),
    }


def measurements(run: str, num_images: int, folder: Path) -> list[tuple[str, list[str]]]:
    """What is measured of a run, with the arguments of its command; what is written goes below a folder."""
    num_folders = num_images // IMAGES_PER_FOLDER
    hundredth = [f"{number:05}/*" for number in range(num_folders // 100)] or ["*00.jpg"]
    one_percent = ["--include", *hundredth]
    return [
        ("filter, half of the masks", ["filter", run, "--into", f"{folder}/half", "--pred-iou-thresh", "0.95"]),
        ("filter, 1 % of the images", ["filter", run, "--into", f"{folder}/some", *one_percent]),
        ("filter, no mask", ["filter", run, "--into", f"{folder}/none", "--pred-iou-thresh", "1"]),
        ("filter, by NMS", ["filter", run, "--into", f"{folder}/nms", "--box-nms-thresh", "0.5"]),
        ("filter, by containment", ["filter", run, "--into", f"{folder}/outer", "--drop-contained", "outer"]),
        ("stats", ["stats", run]),
        ("export, COCO", ["export", run, f"{folder}/coco", "--format", "coco"]),
        ("open a torch dataset", ["open-dataset", run]),
    ]


def missed(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The bars that results are beyond."""
    by_name = {row["what"]: row for row in rows}
    found = [
        f"{name} took {row['peak_bytes'] / 1e9:.2f} GB"
        for name, row in by_name.items()
        if row["peak_bytes"] > MAX_BYTES
    ]
    coco, opening = by_name.get("export, COCO"), by_name.get("open a torch dataset")
    if coco is not None and coco["images_per_s"] < MIN_COCO_IMAGES_PER_S:
        found.append(f"COCO was written at {coco['images_per_s']:,.0f} images/s")
    if opening is not None and opening["seconds"] > MAX_OPENING_S:
        found.append(f"a dataset took {opening['seconds']:.1f} s to open")
    whole, some = by_name.get("filter, half of the masks"), by_name.get("filter, 1 % of the images")
    if whole and some and some["bytes_read"] > MAX_SHARE_READ * whole["bytes_read"]:
        found.append(f"for 1 % of the images {some['bytes_read']:,} of {whole['bytes_read']:,} bytes were read")
    return found


def main(arguments: Sequence[str]) -> None:
    """Parse, run, print, write."""
    parser = argparse.ArgumentParser("benchmark masks_in_use", description=__doc__.split("\n\n")[0])
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--masks-per-image", type=int, default=60)
    parser.add_argument("--run", help="a run of so many images that is there already")
    parser.add_argument("--only", nargs="*", default=[""], help="measurements whose names begin so")
    parser.add_argument("--name", default="masks_in_use", help="of the result file")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="masks-") as name:
        folder = Path(name)
        run = options.run or str(folder / "run")
        if options.run is None:
            write_run(run, options.images, masks_per_image=options.masks_per_image)
        chosen = [each for each in measurements(run, options.images, folder) if each[0].startswith(tuple(options.only))]
        rows = []
        for what, command in chosen:
            rows.append(measure(what, command, options.images))
            print("; ".join(_cells(rows[-1])), file=sys.stderr, flush=True)
    columns = ("", "s", "CPU s", "images/s", "peak MB", "MB read")
    print_table(columns, [_cells(row) for row in rows])
    write_result(options.name, {"masks_per_image": options.masks_per_image, "rows": rows})
    if misses := missed(rows):
        sys.exit("beyond the bar: " + "; ".join(misses))


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    read = "" if row["bytes_read"] is None else f"{row['bytes_read'] / 1e6:,.1f}"
    rate, peak = f"{row['images_per_s']:,.0f}", f"{row['peak_bytes'] / 1e6:,.0f}"
    return row["what"], f"{row['seconds']:.1f}", f"{row['cpu_s']:.1f}", rate, peak, read


def _measured_here(arguments: Sequence[str]) -> None:
    try:
        if arguments[0] == "open-dataset":
            from sam_pipeline.torch import MaskDataset

            start = time.perf_counter()
            dataset = MaskDataset(arguments[1])
            print(f"opening_s {time.perf_counter() - start}")
            print("images", len(dataset))
        else:
            from sam_pipeline.cli.commands import main as command_line

            command_line(list(arguments))
    finally:
        (peak_kb,) = re.findall(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
        times = os.times()
        print(f"cpu_s {times.user + times.system}")
        print(f"peak_bytes {1024 * int(peak_kb)}", flush=True)


if __name__ == "__main__":
    _measured_here(sys.argv[1:])
