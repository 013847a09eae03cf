"""One run of the pipeline for the benchmark of orchestration: the real graph, with an engine that computes nothing.

    python -m benchmarks.measured.orchestration_run plan|annotate SETUP SOURCE OUTPUT

SETUP is JSON: see Setup. Prints a line of JSON for each event, with its time.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray
from ray.cluster_utils import Cluster

from sam_pipeline.config import AnnotateConfig, InputConfig, ModelConfig, PoolConfig
from sam_pipeline.pipeline import annotate, plan
from sam_pipeline.pipeline.job import Backend
from sam_pipeline.pipeline.monitor import Counts
from sam_pipeline.pipeline.starting import prepared_job
from tests.faults.fake_engine import FakeEngine, Instructions, fake_backend


@dataclass(frozen=True)
class Setup:
    """What is run."""

    images: int
    cpus: int
    gpus: int
    """Logical ones, of a Ray on this machine; 0 for a run on CPUs."""
    crop_size: int
    embedding_bytes: int
    batch_size: int | None
    """Of the encoder; None: what the division of the cluster gives."""
    shard_rows: int
    object_store_bytes: int
    unread: bool
    """Whether nothing is fetched and decoded."""
    limit_s: float | None
    """Of annotating, after which the run is stopped."""
    decode_s: float
    """Seconds that the decoder sleeps over an image."""
    decode_actors: int | None
    """None: what the division of the cluster gives."""
    nodes: int
    """Machines, all of them on this one, which share the CPUs."""


class Events:
    """The display of a run: says what is done and what is committed."""

    def __init__(self, limit_s: float | None) -> None:
        self._end = None if limit_s is None else time.monotonic() + limit_s

    def __enter__(self) -> Events:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, counts: Counts, num_committed: int) -> None:
        say("progress", done=counts.num_images, committed=num_committed)
        if self._end is not None and time.monotonic() > self._end:
            raise KeyboardInterrupt


def say(event: str, **what: Any) -> None:
    print(json.dumps({"event": event, "time_s": time.monotonic(), **what}), flush=True)


def start(command: str, setup: Setup, source: str, output: str) -> None:
    config = AnnotateConfig(
        images=InputConfig(input=source),
        output=output,
        num_cpus=setup.cpus if setup.nodes == 1 else None,
        model=ModelConfig(model_type="vit_t"),
        pools=PoolConfig(
            encode_batch_size=setup.batch_size,
            shard_rows=setup.shard_rows,
            threads=1,
            encode_actors=None if setup.decode_actors is None else 1,
            decode_actors=setup.decode_actors,
        ),
    )
    instructions = Instructions(
        crop_size=setup.crop_size, embedding_bytes=setup.embedding_bytes, seconds=setup.decode_s
    )
    backend = fake_backend(instructions)
    if setup.unread:
        # Nothing is there to be looked at before the plan, or to be a probe.
        plan.check_first_images = lambda *_: None  # type: ignore[attr-defined]  # imported there
        prepared_job.find_probe = lambda *_: None  # type: ignore[attr-defined]  # imported there
        from benchmarks.measured import unread

        backend = Backend(
            partial(unread.prepare, crop_size=setup.crop_size), partial(FakeEngine, instructions=instructions)
        )
    if command == "plan":
        plan.ensure_plan(config)
        return
    # An engine that computes nothing needs no weights.
    annotate.prepare_weights = lambda *_: None  # type: ignore[attr-defined]  # imported there
    if setup.nodes == 1:
        ray.init = partial(_init, ray.init, setup)
    say("start")
    try:
        with _cluster(setup):
            annotate.annotate(config, lambda *_: Events(setup.limit_s), backend)
    except KeyboardInterrupt:
        say("stopped")
    say("end")


@contextmanager
def _cluster(setup: Setup) -> Iterator[None]:
    """Several nodes, where they are asked for; else Ray is started by the run itself."""
    if setup.nodes == 1:
        yield
        return
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    each = {"num_cpus": setup.cpus // setup.nodes, "object_store_memory": setup.object_store_bytes // setup.nodes}
    cluster = Cluster(initialize_head=True, head_node_args=each)
    for _ in range(setup.nodes - 1):
        cluster.add_node(**each)
    os.environ["RAY_ADDRESS"] = cluster.address
    try:
        yield
    finally:
        cluster.shutdown()


def _init(init: Any, setup: Setup, **options: Any) -> Any:
    gpus = {"num_gpus": setup.gpus} if setup.gpus else {}
    return init(**{**options, **gpus, "object_store_memory": setup.object_store_bytes})


if __name__ == "__main__":
    command, setup, source, output = sys.argv[1:]
    start(command, Setup(**json.loads(setup)), source, output)
