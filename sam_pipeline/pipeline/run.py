"""The architecture diagram: fetch and decode → encode → decode masks → write, as one Ray Data expression."""

from __future__ import annotations

import logging
import queue
import re
import threading
import time
import warnings
from collections.abc import Callable, Generator
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import ray
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.data._internal.execution.operators.map_operator import MapOperator
from ray.data._internal.execution.streaming_executor import StreamingExecutor
from ray.util.annotations import RayDeprecationWarning

from sam_pipeline import errors
from sam_pipeline.errors import RunFailedError, SamPipelineError
from sam_pipeline.pipeline.job import Job
from sam_pipeline.pipeline.machines.placement import MakeArguments
from sam_pipeline.pipeline.machines.resources import Resources
from sam_pipeline.pipeline.workers.columns import chunks_of, shards_of
from sam_pipeline.pipeline.workers.stages import Decoder, Encoder, read_images, write_shard
from sam_pipeline.process.stopping import is_stopping
from sam_pipeline.safety.clean_text import one_line
from sam_pipeline.storage.tables.results import Shard

logger = logging.getLogger(__name__)

# Smaller than almost every prepared image or embedding, so that Ray adds no second one to a block: see blocks.py. Only
# images below 1 MiB share blocks: unreadable ones, and on CPUs those longer than 3 to 1.
_BLOCK_BYTES = 2**20
# One more attempt for what was beside a crash or on a lost machine; what fails again is for the next pass.
_RETRIES = 1
# Deaths at the start, in a row, that a pass bears for each actor. Our own errors stop the run immediately.
_INIT_DEATHS_AN_ACTOR = 2
_STOP_TIMEOUT_S = 30
# Of a resource that only says where an actor may be; Ray counts in ten-thousandths.
_LEAST_OF_A_RESOURCE = 0.001

# The line of a traceback that names an exception: "package.Name: text".
_RAISED = re.compile(r"^([A-Za-z_][\w.]*): (.+)$", re.MULTILINE)


def shard_dataset(
    pending_ids: npt.NDArray[np.int64],
    chunk_rows: int,
    job: Job,
    r: Resources,
    monitor: Any,
    place_pool: Callable[[], MakeArguments | None],
) -> ray.data.Dataset:
    """Ids of images to do in, descriptors of written shards out. Nothing runs until it is iterated.

    A worker that dies is replaced, and its batch tried once more; then its rows are dropped, so that the others go
    on. What is missing in the end is for the next pass.

    Args:
        pending_ids: (N,) int64.
        chunk_rows: images of a reading task.
        job: the run.
        r: the division of the cluster.
        monitor: see start_monitor.
        place_pool: called for each pool of actors: see SharedGpus.
    """
    # Not from_arrow: it asks for the tables' sizes in tasks of a whole CPU each, for which it waits without a message.
    chunks = [row for chunk in chunks_of(pending_ids, chunk_rows) for row in chunk.to_pylist()]
    block_images = images_per_block(job.crops_per_image, r)
    # Else a shard of a few rows, the rest of a block, would follow each.
    shard_rows = whole_blocks(r.shard_rows, block_images)
    # No more tasks than inputs: Ray Data warns of it.
    read_pool = ray.data.TaskPoolStrategy(size=min(r.read_tasks, len(chunks)))
    write_pool = ray.data.TaskPoolStrategy(size=min(r.write_tasks, len(pending_ids)))
    tries: dict[str, Any] = {"max_retries": _RETRIES}
    with warnings.catch_warnings():
        # Ray 2.60 has no other way to say how often a task is tried again, and where an actor is placed.
        warnings.simplefilter("ignore", RayDeprecationWarning)
        dataset: ray.data.Dataset = (
            ray.data.from_items(chunks, override_num_blocks=len(chunks))
            .map_batches(
                partial(read_images, job=job, block_images=block_images, monitor=monitor),
                batch_size=None,
                num_cpus=r.read_cpus,
                compute=read_pool,
                batch_format="pyarrow",
                **tries,
            )
            .map_batches(
                Encoder,
                fn_constructor_kwargs={"job": job, "batch_size": r.encode_batch_size, "monitor": monitor},
                **_actors(
                    r.encode_actors,
                    r.encode_cpus,
                    r.encode_gpus,
                    r.encode_on,
                    place_pool(),
                ),
            )
            .map_batches(
                Decoder,
                fn_constructor_kwargs={"job": job, "monitor": monitor},
                **_actors(
                    r.decode_actors,
                    r.decode_cpus,
                    r.decode_gpus,
                    r.decode_on,
                    place_pool(),
                ),
            )
            .map_batches(
                partial(write_shard, job=job, monitor=monitor),
                batch_size=shard_rows,
                num_cpus=r.write_cpus,
                compute=write_pool,
                batch_format="pyarrow",
                **tries,
            )
        )
    dataset.set_name(job.run_id)  # Ray Data's own series name it in their label dataset
    return dataset


def _actors(
    number: int, num_cpus: float, num_gpus: float, resource: str | None, placement: MakeArguments | None
) -> dict[str, Any]:
    """Arguments of a stage whose actors take a block at a time."""
    return {
        "batch_size": 1,  # a block is one row
        "batch_format": "pyarrow",
        "compute": ray.data.ActorPoolStrategy(size=number),
        "num_cpus": num_cpus,
        "num_gpus": num_gpus,
        "resources": None if resource is None else {resource: _LEAST_OF_A_RESOURCE},
        "ray_remote_args_fn": placement,
        "max_restarts": -1,
        "max_task_retries": _RETRIES,
    }


def whole_blocks(num_rows: int, block_images: int) -> int:
    """The largest multiple of block_images that is no more than num_rows; num_rows itself where there is none."""
    return num_rows - num_rows % block_images if num_rows > block_images else num_rows


def images_per_block(crops_per_image: int, resources: Resources) -> int:
    """As many images as together have the crops that the encoder takes at once; one at least."""
    return max(1, resources.encode_batch_size // crops_per_image)


def configured_context(
    stall_timeout_s: float, r: Resources, *callbacks: Callable[[], ExecutionCallback]
) -> ray.data.DataContext:
    """Ray Data's settings for a run: blocks as they are yielded, our own progress display, a loud end of a stall."""
    context = ray.data.DataContext.get_current().copy()
    context.target_max_block_size = _BLOCK_BYTES
    context.execution_no_progress_timeout_s = stall_timeout_s
    # Rows of a batch that failed every time are dropped: the tables know that they are missing.
    context.max_errored_blocks = -1
    # Of many machines some are lost while their actors load the model, or have a GPU that fails: others replace them.
    context.max_consecutive_actor_init_deaths = _INIT_DEATHS_AN_ACTOR * max(r.encode_actors, r.decode_actors)
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    classes: list[Any] = [Housekeeping, *callbacks]  # whatever makes a callback will do
    context.custom_execution_callback_classes = classes
    # They warn of nothing that anybody could act on, and ask for the arguments of actors that are never started.
    context.issue_detectors_config.detectors = []
    if not logger.isEnabledFor(logging.DEBUG):
        # An error comes back from iterate_shards as one line; Ray Data would print its traceback too.
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    return context


class Housekeeping(ExecutionCallback):
    """What Ray Data 2.60 leaves undone in a long run."""

    def on_execution_step(self, executor: StreamingExecutor) -> None:
        """Called by Ray Data at each turn of its loop."""
        for stage in executor._topology or ():
            if isinstance(stage, MapOperator):
                stage._output_blocks_stats.clear()  # of each block a kilobyte, for a summary that nobody asks for


def iterate_shards(dataset: ray.data.Dataset, poll_s: float) -> Generator[list[Shard]]:
    """Run a dataset in a thread and yield shards as they are written; an empty list every poll_s seconds.

    Closing the iterator ends the execution.

    Raises:
        SamPipelineError: the one that a worker raised.
        RunFailedError: anything else that ended the execution.
    """
    produced: queue.SimpleQueue[list[Shard] | Exception | None] = queue.SimpleQueue()

    def produce() -> None:
        try:
            for rows in dataset.iter_batches(batch_size=None, prefetch_batches=0, batch_format="pyarrow"):
                produced.put(shards_of(rows))
        except Exception as error:  # noqa: BLE001  whatever it is, the main thread must raise it
            produced.put(error)
        else:
            produced.put(None)

    thread = threading.Thread(target=produce, name="ray-data", daemon=True)
    thread.start()
    try:
        while True:
            try:
                shards = produced.get(timeout=0 if is_stopping() else poll_s)
            except queue.Empty:
                yield []
                continue
            if shards is None:
                return
            if isinstance(shards, Exception):
                raise _worker_error(shards) from shards
            yield shards
    finally:
        if not is_stopping():
            _stop(dataset, thread)


def _stop(dataset: ray.data.Dataset, thread: threading.Thread) -> None:
    """End an execution that nobody waits for any more.

    Ray has no public call for it, and crashes with a segmentation fault (instead of our exit code) when the process
    ends while the executor's thread is still scheduling.
    """
    deadline = time.monotonic() + _STOP_TIMEOUT_S
    while thread.is_alive() and time.monotonic() < deadline:
        for executor in threading.enumerate():
            if isinstance(executor, StreamingExecutor) and executor.name.endswith(dataset.get_dataset_id()):
                executor.shutdown(force=True)
        thread.join(timeout=0.5)


def _worker_error(error: Exception) -> SamPipelineError:
    """Make our own error again of what a worker raised.

    Ray hands over the text of the traceback and not the exception: neither its UserCodeException nor its
    ActorDiedError has a cause.
    """
    if isinstance(error, SamPipelineError):
        return error
    raised = [(name, text) for name, text in _RAISED.findall(str(error)) if not name.startswith("ray.")]
    name, text = raised[-1] if raised else (type(error).__name__, str(error))
    message = one_line(Exception(text))
    if name.startswith(f"{errors.__name__}."):
        own: type[SamPipelineError] = getattr(errors, name.rpartition(".")[2])
        return own(message)
    return RunFailedError(f"the run stopped ({name}: {message}); the same command resumes it")
