"""Planning millions of images: rate and peak memory of `sam-pipeline plan`, in a process of its own.

A manifest names images that do not exist, in no order: planning does not look for them. With --objects a real S3 server
on this machine is filled with small objects, which are then listed; both halves of that share the machine's cores.
Seconds are those of the whole command, from the start of the interpreter to its end.

Ends with 1 where a bar is missed: a gigabyte for a million images of a manifest, five minutes for ten million.

    python -m benchmarks.commands.planning --input INPUT --output OUTPUT

is one such process: `sam-pipeline plan`, which prints its peak memory behind everything else.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from benchmarks.report import print_table, write_result

FORMATS = ("parquet", "csv", "jsonl")

MAX_BYTES_OF_A_MILLION = 10**9
MAX_SECONDS_OF_TEN_MILLION = 300

_ROWS_AT_ONCE = 1_000_000
_PUTS_AT_ONCE = 64


def write_manifest(path: Path, num_images: int) -> None:
    """Write a list of URIs, in no order, in the format that the file's suffix says."""
    schema = pa.schema([("uri", pa.string())])
    if path.suffix == ".jsonl":
        with path.open("wb") as file:
            for uris in _uris(num_images):
                lines = pc.binary_join_element_wise('{"uri": "', uris, '"}\n', "")
                file.write("".join(lines.to_pylist()).encode())
        return
    writer: Any = pa.csv.CSVWriter if path.suffix == ".csv" else pq.ParquetWriter
    with writer(path, schema) as file:
        for uris in _uris(num_images):
            file.write_table(pa.table({"uri": uris}, schema=schema))


def plan(source: str, env: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Plan an input in a process of its own.

    Returns:
        Seconds of the whole process, its peak memory, how many images were planned, and how many a second.

    Raises:
        subprocess.CalledProcessError: planning failed; it has said why.
    """
    with tempfile.TemporaryDirectory(prefix="plan-") as output:
        command = [sys.executable, "-m", "benchmarks.commands.planning", "--input", source, "--output", output]
        start = time.perf_counter()
        printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=env).stdout
        seconds = time.perf_counter() - start
    found = dict(re.findall(r"^(images|VmHWM:)\s+(\d+)", printed, re.MULTILINE))
    images, peak_bytes = int(found["images"]), 1024 * int(found["VmHWM:"])
    return {"images": images, "seconds": seconds, "images_per_s": images / seconds, "peak_bytes": peak_bytes}


def plan_manifest(kind: str, num_images: int) -> dict[str, Any]:
    """Write a manifest, and plan it."""
    with tempfile.TemporaryDirectory(prefix="manifest-") as folder:
        path = Path(folder) / f"list.{kind}"
        write_manifest(path, num_images)
        return {"input": f"{kind} manifest", "input_bytes": path.stat().st_size, **plan(str(path))}


def plan_objects(num_objects: int) -> dict[str, Any]:
    """Fill a bucket of a real S3 server, and plan it."""
    import s3fs

    from tests.s3_server import run_s3_server

    # The path of a Unix socket, which the server puts there, must stay short.
    with tempfile.TemporaryDirectory(prefix="weed-") as folder, run_s3_server(Path(folder)) as server:
        bucket = server.create_bucket()
        filesystem = s3fs.S3FileSystem(key=server.access_key, secret=server.secret_key, endpoint_url=server.endpoint)
        keys = [f"{bucket}/photos/{number // 1000:04}/{number:08}.jpg" for number in range(num_objects)]
        filesystem.pipe(dict.fromkeys(keys, b"x"), batch_size=_PUTS_AT_ONCE)
        return {"input": "objects on S3", **plan(f"s3://{bucket}/photos", {**os.environ, **server.env})}


def missed(row: Mapping[str, Any]) -> list[str]:
    """The bars that a result is above; those for a manifest, whose planning no storage slows down."""
    found = []
    if row["input"].endswith("manifest"):
        if row["images"] <= 10**6 and row["peak_bytes"] > MAX_BYTES_OF_A_MILLION:
            found.append(f"{row['peak_bytes'] / 1e9:.2f} GB for {row['images']:,} images of a {row['input']}")
        if row["images"] <= 10**7 and row["seconds"] > MAX_SECONDS_OF_TEN_MILLION:
            found.append(f"{row['seconds']:.0f} s for {row['images']:,} images of a {row['input']}")
    return found


def main(arguments: Sequence[str]) -> None:
    """Parse, run, print, write."""
    parser = argparse.ArgumentParser("benchmark planning", description=__doc__.split("\n\n")[0])
    parser.add_argument("--images", type=int, nargs="*", default=[1_000_000], help="images of a manifest, one run each")
    parser.add_argument("--format", nargs="+", choices=FORMATS, default=["parquet"], help="of the manifest")
    parser.add_argument("--objects", type=int, default=0, help="list so many objects of a real S3 server too")
    parser.add_argument("--name", default="planning", help="of the result file")
    options = parser.parse_args(arguments)
    rows = [plan_manifest(kind, num_images) for num_images in options.images for kind in options.format]
    if options.objects:
        rows.append(plan_objects(options.objects))
    print_table(("input", "images", "s", "images/s", "peak MiB"), [_cells(row) for row in rows])
    write_result(options.name, {"rows": rows})
    if misses := [miss for row in rows for miss in missed(row)]:
        sys.exit("above the bar: " + "; ".join(misses))


def _uris(num_images: int) -> Iterator[pa.Array]:
    """URIs of about fifty characters, a million at a time; the same ones every time."""
    numbers = np.random.default_rng(0).permutation(num_images)
    for first in range(0, num_images, _ROWS_AT_ONCE):
        some = numbers[first : first + _ROWS_AT_ONCE]
        folders, names = _digits(some // 1000, 7), _digits(some, 10)
        yield pc.binary_join_element_wise("s3://bucket/dataset/photos/", folders, "/", names, ".jpg", "")


def _digits(numbers: np.ndarray, width: int) -> pa.Array:
    return pc.utf8_lpad(pa.array(numbers).cast(pa.string()), width, padding="0")


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    seconds, rate = f"{row['seconds']:.1f}", f"{row['images_per_s']:,.0f}"
    return row["input"], f"{row['images']:,}", seconds, rate, f"{row['peak_bytes'] / 2**20:.0f}"


def _plan_here(arguments: Sequence[str]) -> None:
    from sam_pipeline.cli.commands import main as command_line
    from sam_pipeline.pipeline import plan

    # The images that are named are nowhere, so the look at the first of them, a request or twenty, is left out.
    plan.check_first_images = lambda *_: None  # type: ignore[attr-defined]  # imported there
    try:
        command_line(["plan", *arguments])
    finally:
        status = Path("/proc/self/status").read_text().splitlines()
        print(next(line for line in status if line.startswith("VmHWM")), flush=True)


if __name__ == "__main__":
    _plan_here(sys.argv[1:])
