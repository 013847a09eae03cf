"""What it costs the driver to do a million changed images again: time, and memory in a process of its own.

    python -m tests.faults.redo_at_scale

Every second image has changed, so that every file of the plan and of the results is rewritten. Then the other commands
go over the same run. Tables are those of resume_at_scale; the listing, which benchmarks/commands/planning.py times, is
made up.
"""

import argparse
import contextlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sam_pipeline.cli import commands as cli
from sam_pipeline.pipeline import plan as planning
from sam_pipeline.storage.inputs.list_input import ListedInput
from sam_pipeline.storage.inputs.source_object import SOURCE_SCHEMA
from sam_pipeline.storage.maintenance.verify import Verification, verify
from sam_pipeline.storage.tables.results import MaskTable, put_shard
from tests.configs import plan_config
from tests.faults.resume_at_scale import FINGERPRINT, ROWS_PER_SHARD, SHARDS_PER_COMMIT, make, result_rows, uris

INPUT = "s3://bucket/images"

MAX_BYTES = 2 * 2**30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2_000_000, help="planned; half of them have changed")
    parser.add_argument("--folder", help="where the tables are made, and removed in the end; default: a temporary one")
    parser.add_argument("--measure", help=argparse.SUPPRESS)  # the output given, in this process
    arguments = parser.parse_args()
    if arguments.measure is not None:
        measure(arguments.measure, arguments.images)
        sys.stdout.flush()
        os._exit(0)  # pyarrow's threads may still be reading when the interpreter ends, which aborts it

    folder = Path(tempfile.mkdtemp(prefix="redo-", dir=arguments.folder))
    try:
        make(str(folder), arguments.images)
        command = [sys.executable, "-m", "tests.faults.redo_at_scale", "--measure", str(folder)]
        command += ["--images", str(arguments.images)]
        measured = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        peak_bytes = 0
        print(f"{arguments.images // 2:,} of {arguments.images:,} images have changed", flush=True)
        for line in measured.stdout:
            step = json.loads(line)
            peak_bytes = step["peak_bytes"]
            print(f"{step['name']:<24}{step['seconds']:>8.1f} s{peak_bytes / 2**20:>8.0f} MiB", flush=True)
        sys.exit(0 if measured.wait() == 0 and peak_bytes <= MAX_BYTES else 1)
    finally:
        shutil.rmtree(folder)


def measure(output: str, num_images: int) -> None:
    """Do everything one after another; the peaks of memory are those of all that came before as well."""
    planning.list_input = lambda config: ListedInput(listing(num_images), "files")
    with step("extend, redo changed"):
        planning.ensure_plan(plan_config(output=output, input=INPUT, extend=True, redo_changed=True))
    with step("do them again"):
        table = MaskTable.take_over(output, FINGERPRINT, {}, {})
        pending = np.flatnonzero(~table.committed_ids(num_images))
        assert len(pending) == num_images // 2
        commit(output, table, pending)
    with step("compact"):
        table.compact()
    with step("status"), contextlib.redirect_stdout(None):
        cli.status(output)
    with step("verify"):
        assert verify(output, {}) == Verification(num_images, num_images)
    with step("retry --damaged"), contextlib.redirect_stdout(None):
        cli.retry(output, damaged=True)
    with step("vacuum"), contextlib.redirect_stdout(None):
        cli.vacuum(output, 1)
    with step("retry --status ok"), contextlib.redirect_stdout(None):
        cli.retry(output, ("ok",))


@contextlib.contextmanager
def step(name: str):
    start = time.perf_counter()
    yield
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"name": name, "seconds": time.perf_counter() - start, "peak_bytes": peak_bytes}), flush=True)


def listing(num_images: int) -> pa.Table:
    """The input as it is now: every second image has another etag."""
    ids = np.arange(num_images)
    etags = pc.cast(pa.array(np.where(ids % 2, ids, -ids - 1)), pa.string())
    columns = {"uri": uris(ids), "size_bytes": pa.array(ids), "etag": etags}
    empty = {name: pa.nulls(num_images, SOURCE_SCHEMA.field(name).type) for name in ("location", "error", "extra")}
    return pa.table(columns | empty, schema=SOURCE_SCHEMA)


def commit(output: str, table: MaskTable, image_ids: np.ndarray) -> None:
    shards = []
    for start in range(0, len(image_ids), ROWS_PER_SHARD):
        rows = result_rows(image_ids[start : start + ROWS_PER_SHARD])
        shards.append(put_shard(output, rows, {}, table_id=table.id))
        if len(shards) == SHARDS_PER_COMMIT or start + ROWS_PER_SHARD >= len(image_ids):
            table.commit(shards)
            shards = []


if __name__ == "__main__":
    main()
