"""A long run over fake images in which workers, actors, nodes and drivers are killed at random, again and again.

Prints what was lost, done twice and done again, and writes it to a file. What is killed, and after how many committed
images, follows from the seed; which image it hits depends on the machine.

    python -m tests.faults.soak --images 200000 --kills 200 --seed 1
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack, suppress
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import numpy as np
import psutil
from deltalake import DeltaTable
from deltalake.exceptions import TableNotFoundError

from sam_pipeline.model.checkpoints import fetch_checkpoint
from tests.clusters import ray_head, ray_node
from tests.faults.fake_engine import Instructions, expected_masks, image_file, without_scores
from tests.processes import Program, clean_env, command_line, starting
from tests.s3_server import run_s3_server

ROOT = Path(__file__).parents[2]

KINDS = {"worker": 17, "actor": 17, "node": 3, "driver": 3}
"""What is killed, and how often in relation to the others."""

TITLES = {"worker": ("MapBatches(read_images)", "MapBatches(write_shard)"), "actor": ("MapWorker",)}

SHARD_ROWS = 100
COMMIT_INTERVAL_S = 1

BATCH = 16
"""Images a block."""

OBJECT_STORE_BYTES = 128 * 2**20
"""Of a node: what keeps reading from running ahead of the rest, as large crops do in earnest."""

BURST = 20
"""Kills that come together, seconds apart: while the run gets over one, the next hits it."""
FLAGS = ("--model-type", "vit_t", "--threads", 1, "--shard-rows", SHARD_ROWS, "--encode-batch-size", BATCH)
FLAGS += ("--encode-cpus", 0.3, "--decode-cpus", 0.3, "--read-cpus", 0.6, "--commit-interval-s", COMMIT_INTERVAL_S)


class Soak:
    """One run and the machines that it runs on.

    Args:
        stack: owns everything that is started.
        num_images: numbered images to annotate.
        seed: of the kills.
    """

    def __init__(self, stack: ExitStack, num_images: int, seed: int) -> None:
        self._random = random.Random(seed)
        self._num_images = num_images
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="soak-", ignore_cleanup_errors=True)))
        self._images = folder / "images"
        self._images.mkdir()
        for number in range(num_images):
            (self._images / f"{number:06}.png").write_bytes(image_file(number))
        (folder / "s3").mkdir()
        self._s3 = stack.enter_context(run_s3_server(folder / "s3"))
        self._output = f"s3://{self._s3.create_bucket()}/run"
        self._log = folder / "decoded"
        self._log.mkdir()
        env = stack.enter_context(clean_env(fetch_checkpoint("vit_t", progress=False)))
        env |= self._s3.env | {"PYTHONPATH": str(ROOT)}
        instructions = Instructions(log=str(self._log), crop_size=96, embedding_bytes=0)
        env["FAKE_ENGINE"] = json.dumps(asdict(instructions))
        self._start = stack.enter_context(starting(env, lambda: Path(tempfile.mkdtemp(dir=folder))))
        self._env = env
        self._nodes = stack.enter_context(ExitStack())
        self._head = stack.enter_context(ray_head(self._start, env, 2, OBJECT_STORE_BYTES))
        self._node = self._nodes.enter_context(ray_node(self._start, env, self._head, 2, OBJECT_STORE_BYTES))
        self._table: DeltaTable | None = None
        self.kills: Counter[str] = Counter()
        self.num_starts = 0
        self.failed_starts: list[str] = []
        """What drivers said that ended by themselves before the run was done."""

    def run(self, num_kills: int, limit_s: float) -> None:
        """Annotate everything, killing something whenever another share of the images is committed.

        Raises:
            TimeoutError: it is not done in limit_s seconds.
        """
        deadline = time.monotonic() + limit_s
        kinds = self._random.choices(list(KINDS), list(KINDS.values()), k=num_kills)
        # The last kills come before the end even if the last commits are large.
        step = 0.97 * self._num_images * BURST / num_kills
        thresholds = [step * (index // BURST + 1) for index in range(num_kills)]
        driver = self._start_driver()
        while driver.process.poll() != 0:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self._num_committed()} images committed, {self.kills} in {limit_s:.0f} s")
            if driver.process.poll() is not None:
                self._check_end(driver)
                driver = self._start_driver()
            due = self.kills.total() < num_kills and self._num_committed() >= thresholds[self.kills.total()]
            if due and self._kill(kinds[self.kills.total()], driver.driver().pid):
                self.kills[kinds[self.kills.total()]] += 1
                print(f"{self.kills.total():4} kills, {self._num_committed():7} images committed", flush=True)
            time.sleep(0.2)

    def _check_end(self, driver: Program) -> None:
        last_line = driver.wait().stderr.splitlines()[-1]
        if "ended by SIGKILL" not in last_line:
            self.failed_starts.append(last_line)

    def _start_driver(self) -> Program:
        self.num_starts += 1
        arguments = ("--input", self._images, "--output", self._output, *FLAGS)
        env = {"RAY_ADDRESS": self._head.address}
        return self._start("-m", "tests.faults.fake_run", "annotate", *arguments, script="python", env=env)

    def _num_committed(self) -> int:
        if self._table is None:
            with suppress(TableNotFoundError):
                self._table = DeltaTable(f"{self._output}/masks", storage_options=self._s3.storage_options)
        if self._table is None:
            return 0
        self._table.update_incremental()
        return self._table.count()

    def _kill(self, kind: str, driver_pid: int) -> bool:
        """Kill one of a kind; whether there was one."""
        if kind == "node":
            self._node.kill()
            self._node = self._nodes.enter_context(ray_node(self._start, self._env, self._head, 2, OBJECT_STORE_BYTES))
            return True
        if kind == "driver":
            os.kill(driver_pid, signal.SIGKILL)
            return True
        pids = [
            process.pid for process in self._workers() if any(title in command_line(process) for title in TITLES[kind])
        ]
        if not pids:
            return False
        with suppress(ProcessLookupError):
            os.kill(self._random.choice(pids), signal.SIGKILL)
        return True

    def _workers(self) -> list[psutil.Process]:
        return [*self._head.program.members(), *self._node.members()]

    def result(self) -> dict[str, object]:
        """What is in the table, against what should be there."""
        ids, wrong = [], 0
        table = DeltaTable(f"{self._output}/masks", storage_options=self._s3.storage_options)
        for batch in table.to_pyarrow_dataset().to_batches(columns=["image_id", "status", "masks"]):
            for row in batch.to_pylist():
                ids.append(row["image_id"])
                expected = [without_scores(mask.to_dict()) for mask in expected_masks(row["image_id"])]
                wrong += row["status"] != "ok" or [without_scores(mask) for mask in row["masks"]] != expected
        counts = np.bincount(ids, minlength=self._num_images)
        verified = self._start("verify", self._output).wait()
        return {
            "images": self._num_images,
            "lost": int((counts == 0).sum()),
            "twice": int((counts > 1).sum()),
            "wrong": wrong,
            "redone": sum(path.read_bytes().count(b"\n") for path in self._log.iterdir()) - self._num_images,
            "verify": verified.exit_code,
            "kills": dict(self.kills),
            "starts": self.num_starts,
            "starts that failed by themselves": self.failed_starts,
        }


def main() -> None:
    """Run it, print the result, and write it to a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200_000)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--limit-s", type=float, default=2000, help="fail when it takes longer")
    parser.add_argument("--output", type=Path, default=ROOT / "tests/faults/results/soak.json")
    arguments = parser.parse_args()
    start = time.monotonic()
    with ExitStack() as stack:
        soak = Soak(stack, arguments.images, arguments.seed)
        soak.run(arguments.kills, arguments.limit_s)
        result = soak.result()
    result |= {
        "seconds": round(time.monotonic() - start),
        "seed": arguments.seed,
        "command": " ".join(["python -m tests.faults.soak", *sys.argv[1:]]),
    }
    result |= {"cpus": os.cpu_count(), "python": platform.python_version()}
    result |= {package: version(package) for package in ("ray", "deltalake", "pyarrow")}
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))
    too_few = sum(result["kills"].values()) < arguments.kills
    if result["lost"] or result["twice"] or result["wrong"] or result["verify"] or too_few:
        sys.exit(1)


if __name__ == "__main__":
    main()
