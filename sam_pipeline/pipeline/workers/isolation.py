"""The isolation pass: what a pass could not account for, one image at a time, in a process that may die.

An image that crashes, hangs or exhausts its worker takes the rows near it down with it; here it has a process of its
own, which also fetches it. An image that still fails ends as a row with status worker_crashed. If storage fails, the
probe fails too, and the process reports that instead of blaming the image. Before its first image it annotates a blank
one: if that fails, the machine or the weights are at fault and the run stops.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Generator
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import ray
from PIL import Image
from ray.util import ActorPool

from sam_pipeline.errors import RunFailedError, SamPipelineError
from sam_pipeline.pipeline.job import Engine, Job
from sam_pipeline.pipeline.machines.resources import Resources
from sam_pipeline.pipeline.metrics import counted_retries
from sam_pipeline.pipeline.monitor import report_errors
from sam_pipeline.pipeline.workers.columns import images_table, shards_of
from sam_pipeline.pipeline.workers.device_faults import is_device_lost
from sam_pipeline.pipeline.workers.limits import limit_memory_after
from sam_pipeline.pipeline.workers.stages import (
    PlannedImage,
    decode_masks,
    encode_images,
    fetch_limit_s,
    fetch_planned,
    planned_images,
    prepare_image,
    put_results,
    report_progress,
)
from sam_pipeline.process.stopping import is_stopping
from sam_pipeline.safety.clean_text import one_line
from sam_pipeline.storage.inputs.fetching import Fetched, wait_for_probe
from sam_pipeline.storage.inputs.source_object import SourceObject, object_of_row
from sam_pipeline.storage.tables.plan import read_planned
from sam_pipeline.storage.tables.results import Shard
from sam_pipeline.storage.tables.schema import MASKS_SCHEMA

# Importing torch and loading ViT-H from a cold disk takes a minute or two.
_START_TIMEOUT_S = 600.0
_OUTAGE_S = 120.0  # how long storage is asked again, see retrying.retried
_RETRIES = 2  # when an annotator is lost with its machine
# A device may fail of what the image before has started, or of itself: an image is blamed if it does so twice.
_TRIES_ON_DEVICES = 2

_Doing = Literal["start", "fetch", "stage"]
"""What the child is doing, which decides how long it may take."""


def annotate_isolated(
    image_ids: list[int], job: Job, resources: Resources, monitor: Any, poll_s: float
) -> Generator[list[Shard]]:
    """Annotate images, each alone; yields the shard of each as it is written, and an empty list every poll_s seconds.

    Raises:
        SamPipelineError: storage or the machines failed, which is not the image's fault.
    """
    num_cpus, num_gpus = resources.decode_cpus, min(1.0, resources.encode_gpus + resources.decode_gpus)
    actor = ray.remote(
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        max_restarts=-1,  # with its node; each image is tried a few times only
        max_task_retries=_RETRIES,
    )(IsolatedAnnotator)
    # At most one for each pair of an encoder and a decoder, whose resources are free now; fewer if a machine was lost.
    num_pairs = min(resources.encode_actors, resources.decode_actors)
    num_actors = max(1, min(len(image_ids), num_pairs, _num_that_fit(num_cpus, num_gpus)))
    pool: Any = ActorPool([actor.remote(job, monitor) for _ in range(num_actors)])
    for image_id in image_ids:
        pool.submit(lambda annotator, image_id: annotator.annotate.remote(image_id), image_id)
    patience_s = max(job.stall_timeout_s, _START_TIMEOUT_S + 4 * job.image_timeout_s)
    deadline = time.monotonic() + patience_s
    while pool.has_next():
        try:
            rows = pool.get_next_unordered(timeout=0 if is_stopping() else poll_s)
        except TimeoutError:
            if time.monotonic() > deadline:
                raise RunFailedError(
                    f"no image was done alone for {patience_s:g} s; the same command resumes"
                ) from None
            yield []
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, SamPipelineError):
                raise error.cause from None
            raise
        else:
            deadline = time.monotonic() + patience_s
            yield shards_of(rows)


def _num_that_fit(num_cpus: float, num_gpus: float) -> int:
    total = ray.cluster_resources()
    on_cpus = int(total.get("CPU", 0.0) / num_cpus)
    return min(on_cpus, int(total.get("GPU", 0.0) / num_gpus)) if num_gpus else on_cpus


class IsolatedAnnotator:
    """Actor: looks an image up in the plan and writes its row, and lets a child process do what may crash."""

    def __init__(self, job: Job, monitor: Any) -> None:
        self._job, self._monitor = job, monitor
        self._child: _Child | None = None

    def annotate(self, image_id: int) -> pa.Table:
        """Do one planned image; returns its shard's descriptor."""
        job = self._job
        with report_errors(self._monitor), counted_retries(job.run_id):
            (row,) = read_planned(job.output, np.array([image_id]), job.storage_options).to_pylist()
            results = self._results(image_id, object_of_row(row))
            report_progress(self._monitor, job.run_id, results)
            return put_results(results, job)

    def _results(self, image_id: int, source: SourceObject) -> pa.Table:
        for _ in range(_TRIES_ON_DEVICES):
            child = self._living_child()
            answer = child.ask(image_id)
            if not isinstance(answer, str):
                return answer
            if not child.has_lost_device:
                break
        if not child.is_alive() and self._job.probe_uri is not None:
            wait_for_probe(self._job.probe_uri, self._job.storage_options)  # it may have hung in storage
        return _crashed_row(image_id, source, answer)

    def _living_child(self) -> _Child:
        if self._child is None or not self._child.is_alive():
            self._child = _Child(self._job)
        return self._child


def _crashed_row(image_id: int, source: SourceObject, reason: str) -> pa.Table:
    row = {"image_id": image_id, "uri": source.uri, "status": "worker_crashed", "error": reason}
    row |= {"num_masks": 0, "masks": [], "extra": source.extra}
    return pa.Table.from_pylist([row], schema=MASKS_SCHEMA)


class _Child:
    """A process that annotates one image after another, until one of them ends it.

    Raises:
        RunFailedError: it cannot annotate even a blank image.
        CheckpointError: it cannot load the weights.
    """

    def __init__(self, job: Job) -> None:
        self.has_lost_device = False
        """Whether it was ended because it could no longer use its GPU."""
        # Spawned: CUDA does not survive a fork, and Ray's threads would be missing in one.
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        # Its own watchdog comes second: for the case that this process, which watches it, is gone.
        self._limits_s = {"start": _START_TIMEOUT_S, "fetch": _fetch_limit_s(job), "stage": job.image_timeout_s}
        job = replace(job, image_timeout_s=2 * job.image_timeout_s)
        self._process = context.Process(target=_serve, args=(job, theirs), daemon=True)
        self._process.start()
        theirs.close()  # so that the end of the process ends the connection
        answer = self._answer("start", "starting")
        if isinstance(answer, str):
            raise RunFailedError(f"this machine cannot annotate even a blank image: {answer}; the same command resumes")

    def is_alive(self) -> bool:
        """Whether it can take another image."""
        return self._process.is_alive()

    def ask(self, image_id: int) -> pa.Table | str:
        """The image's result row, or the reason why there is none."""
        with suppress(OSError):  # it died meanwhile, of which the answer tells
            self._connection.send(image_id)
        return self._answer("fetch", "fetching the image")

    def _answer(self, kind: _Doing, doing: str) -> pa.Table | str:
        limits_s = self._limits_s
        try:
            while self._connection.poll(limit_s := limits_s[kind]):
                message, *content = self._connection.recv()
                if message == "doing":
                    kind, doing = content
                elif message == "error":
                    raise content[0]
                else:
                    if message == "lost":
                        self.has_lost_device = True
                        self._kill()
                    return content[0]
        except (EOFError, OSError):
            self._process.join()
            return f"the process was ended by {_cause_of_death(self._process.exitcode)} while {doing}"
        self._kill()
        return f"the process took more than {limit_s:g} s and was killed while {doing}"

    def _kill(self) -> None:
        self._process.kill()
        self._process.join()


def _fetch_limit_s(job: Job) -> float:
    """Longer than any fetch that still answers: two attempts, with two minutes of asking storage between them."""
    return max(job.stall_timeout_s, 2 * fetch_limit_s(job) + _OUTAGE_S)


def _cause_of_death(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        return f"signal {-exit_code} ({signal.Signals(-exit_code).name})"
    return f"exit code {exit_code}"


def _serve(job: Job, connection: Connection) -> None:
    """The child: answers each image with ("result", table) or ("failed", reason), and reports each step before.

    ("lost", reason) is a failure after which the device is of no more use to this process. ("error", SamPipelineError)
    concerns the run and not an image.
    """
    threading.Thread(target=_end_with_parent, daemon=True).start()
    connection.send(("doing", "start", "loading the model"))
    try:
        with limit_memory_after(job.worker_memory_bytes):
            engine = job.backend.load(job, "both")
        # The parent waits for the blank image's answer first, then asks.
        connection.send(_annotated(*_blank_image(), engine, job, connection))
        for image_id in iter(connection.recv, None):
            try:
                (planned,) = planned_images(np.array([image_id]), job)
                (data,) = fetch_planned([planned], job)
            except MemoryError as error:
                connection.send(_failure(error))
            else:
                connection.send(_annotated(planned, data, engine, job, connection))
    except SamPipelineError as error:
        connection.send(("error", error))


def _annotated(
    planned: PlannedImage, data: Fetched, engine: Engine, job: Job, connection: Connection
) -> tuple[str, Any]:
    try:
        connection.send(("doing", "stage", "reading the image"))
        images = images_table([prepare_image(planned, data, job)])
        connection.send(("doing", "stage", "encoding it"))
        embeddings = encode_images(images, engine, 1, job)
        connection.send(("doing", "stage", "finding its masks"))
        return "result", decode_masks(embeddings, engine, job)
    except Exception as error:  # noqa: BLE001  whatever a library raises of an image is that image's end
        return _failure(error)


def _failure(error: Exception) -> tuple[str, str]:
    return "lost" if is_device_lost(error) else "failed", f"{type(error).__name__}: {one_line(error)}"


def _end_with_parent() -> None:
    """Wait until the actor is gone, which Ray may end at any time, and go too."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "the child is spawned by multiprocessing"
    parent.join()
    os._exit(1)


def _blank_image() -> tuple[PlannedImage, bytes]:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), "white").save(file, "PNG")
    data = file.getvalue()
    return PlannedImage(-1, SourceObject("a blank image", len(data), None), []), data
