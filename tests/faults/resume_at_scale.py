"""What a resume costs the driver when millions of images are committed: time, and memory in a process of its own.

    python -m tests.faults.resume_at_scale

Tables are made in the form a run leaves them: shards of 256 rows, whose ids are those of a few neighbouring chunks in
any order, some shards to a commit. Rows have no masks: a resume reads other columns only, so that their size decides
nothing but how long this program takes to write them. The last column is what the command `status` reads of such a
table, which no start does before its first image.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sam_pipeline.storage.maintenance.watching import read_state
from sam_pipeline.storage.tables.delta import create_table, table_id
from sam_pipeline.storage.tables.fenced_table import FencedTable, put_parquet
from sam_pipeline.storage.tables.plan import read_plan
from sam_pipeline.storage.tables.reading.run_header import read_header
from sam_pipeline.storage.tables.results import MaskTable, put_shard
from sam_pipeline.storage.tables.schema import IMAGES_SCHEMA, MASKS_SCHEMA

T = TypeVar("T")

FINGERPRINT = {"schema_version": 1, "precision": "fp32"}

ROWS_PER_SHARD = 256
CHUNKS_AT_ONCE = 8
"""Reading tasks that work at the same time, whose images meet in a shard."""
SHARDS_PER_COMMIT = 16

COLUMNS = ("plan", "header", "take over", "ids")
"""What is timed, in the order of a start: see annotate in pipeline/annotate.py."""

MAX_RESUME_S, MAX_RESUME_BYTES = 60, 2**30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[1_000_000, 3_000_000, 10_000_000])
    parser.add_argument("--folder", help="where the tables are made, and removed in the end; default: a temporary one")
    parser.add_argument("--measure", help=argparse.SUPPRESS)  # a resume of the output given, in this process
    arguments = parser.parse_args()
    if arguments.measure is not None:
        print(json.dumps(resume(arguments.measure)), flush=True)
        # pyarrow's threads may still be reading when the interpreter ends, which aborts it.
        os._exit(0)

    titles = "".join(f"{name:>11}" for name in (*COLUMNS, "total", "status"))
    print(f"{'images':>11} {'form':<10}{'files':>7}{titles}{'peak':>10}", flush=True)
    within = True
    for num_images in arguments.images:
        folder = Path(tempfile.mkdtemp(prefix="resume-", dir=arguments.folder))
        try:
            for form, output in forms(str(folder), num_images):
                within &= report(form, num_images, measured(output))
        finally:
            shutil.rmtree(folder)
    sys.exit(0 if within else 1)


def forms(output: str, num_images: int) -> Iterator[tuple[str, str]]:
    """The same images as a run leaves them before it compacts, and after."""
    table = make(output, num_images)
    yield "as put", output
    table = MaskTable.take_over(output, FINGERPRINT, {}, {})  # measuring took over
    table.compact()
    yield "compacted", output


def make(output: str, num_images: int) -> MaskTable:
    """Plan and commit images; only the values of image_id and uri differ from row to row."""
    plan = create_table(f"{output}/images", IMAGES_SCHEMA, {"input": "s3://bucket/images"}, {})
    files = []
    for start in range(0, num_images, 1_000_000):
        ids = np.arange(start, min(start + 1_000_000, num_images))
        count = len(ids)
        columns = {"image_id": pa.array(ids), "uri": uris(ids), "size_bytes": pa.array(ids)}
        columns |= {"etag": pc.cast(pa.array(ids), pa.string())}
        empty = {name: pa.nulls(count, IMAGES_SCHEMA.field(name).type) for name in ("location", "error", "extra")}
        rows = pa.table(columns | empty, schema=IMAGES_SCHEMA)
        files.append(put_parquet(f"{output}/images", rows, {}, row_group_size=16_384, table_id=table_id(plan)))
    FencedTable(plan, IMAGES_SCHEMA).commit(files, epoch=1)

    table = MaskTable.take_over(output, FINGERPRINT, {}, {})
    shards = []
    for ids in shard_ids(num_images):
        shards.append(put_shard(output, result_rows(ids), {}, table_id=table.id))
        if len(shards) == SHARDS_PER_COMMIT:
            table.commit(shards)
            shards = []
    if shards:
        table.commit(shards)
    return table


def shard_ids(num_images: int) -> Iterator[np.ndarray]:
    random = np.random.default_rng(0)
    window = ROWS_PER_SHARD * CHUNKS_AT_ONCE
    for start in range(0, num_images, window):
        ids = random.permutation(np.arange(start, min(start + window, num_images)))
        yield from (ids[first : first + ROWS_PER_SHARD] for first in range(0, len(ids), ROWS_PER_SHARD))


def uris(ids: np.ndarray) -> pa.Array:
    return pc.binary_join_element_wise("s3://bucket/images", pc.cast(pa.array(ids), pa.string()), "/")


def result_rows(ids: np.ndarray) -> pa.Table:
    count = len(ids)
    columns = {
        "image_id": pa.array(ids),
        "uri": uris(ids),
        "height": pa.repeat(pa.scalar(1500, pa.int32()), count),
        "width": pa.repeat(pa.scalar(2250, pa.int32()), count),
        "status": pa.repeat("ok", count),
        "error": pa.nulls(count, pa.string()),
        "num_masks": pa.repeat(pa.scalar(0, pa.int32()), count),
        "masks": pa.array([[]] * count, MASKS_SCHEMA.field("masks").type),
        "extra": pa.nulls(count, pa.string()),
        "prompt_errors": pa.nulls(count, MASKS_SCHEMA.field("prompt_errors").type),
    }
    return pa.table(columns, schema=MASKS_SCHEMA)


def measured(output: str) -> dict[str, float]:
    """The figures of a resume in a fresh process."""
    command = [sys.executable, "-m", "tests.faults.resume_at_scale", "--measure", output]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def resume(output: str) -> dict[str, float]:
    """Do what a start does before it knows what is left."""
    seconds = {}

    def timed(name: str, call: Callable[[], T]) -> T:
        start = time.perf_counter()
        result = call()
        seconds[name] = time.perf_counter() - start
        return result

    plan = timed("plan", lambda: read_plan(output, {}))
    header = timed("header", lambda: read_header(output, {}))
    table = timed("take over", lambda: MaskTable.take_over(output, FINGERPRINT, {}, {}))
    committed = timed("ids", lambda: table.committed_ids(plan.num_images))
    assert committed.all()
    assert header.num_images == plan.num_images
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    state = timed("status", lambda: read_state(output, {}))
    assert state.num_by_status == {"ok": plan.num_images}
    return seconds | {"peak_bytes": peak_bytes, "files": len(table._table.file_uris())}


def report(form: str, num_images: int, figures: dict[str, float]) -> bool:
    """Print a line; whether it is within the promise."""
    parts = [figures[name] for name in COLUMNS]
    times = "".join(f"{seconds:>10.1f}s" for seconds in (*parts, sum(parts), figures["status"]))
    peak = f"{figures['peak_bytes'] / 2**20:.0f} MiB"
    print(f"{num_images:>11,} {form:<10}{figures['files']:>7}{times}{peak:>10}", flush=True)
    return sum(parts) <= MAX_RESUME_S and figures["peak_bytes"] <= MAX_RESUME_BYTES


if __name__ == "__main__":
    main()
