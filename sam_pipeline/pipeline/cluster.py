"""Connecting to Ray: the cluster that RAY_ADDRESS names, or one of this machine's own for the run's duration."""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from sam_pipeline.clean_text import one_line
from sam_pipeline.errors import ClusterError, ConfigError
from sam_pipeline.pipeline.resources import Cluster

logger = logging.getLogger(__name__)

# A local run on CPUs holds a few images in flight; Ray's default of a third of the memory would be taken from the user.
_LOCAL_OBJECT_STORE_BYTES = 2**30

_RETRIES_OUT_OF_MEMORY = 2

# Ray ends a worker that is idle for a second where there are more than CPUs, as there are with fractions of CPUs; the
# next task then waits seconds for a new one to import everything, and the tasks behind it idle meanwhile.
_IDLE_WORKER_MS = 60_000


@contextmanager
def connected(num_cpus: int | None) -> Iterator[Cluster]:
    """Be connected to Ray: as this process is already, or for the time of the block.

    Args:
        num_cpus: CPUs of a Ray started here; None takes all.

    Raises:
        ConfigError: num_cpus was given for a cluster that is there already.
        ClusterError: the cluster does not answer.
    """
    if ray.is_initialized():
        yield _cluster()
        return
    try:
        _connect(num_cpus)
        yield _cluster()
    finally:
        ray.shutdown()


def _connect(num_cpus: int | None) -> None:
    debug = logger.isEnabledFor(logging.DEBUG)
    if not debug:
        # The driver's core worker prints warnings that nobody running a pipeline can act on.
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    # Ray would start a task that was killed for its memory again and again, for ever.
    os.environ.setdefault("RAY_task_oom_retries", str(_RETRIES_OUT_OF_MEMORY))
    level = logging.INFO if debug else logging.ERROR
    address = os.environ.get("RAY_ADDRESS")
    if address and num_cpus is not None:
        raise ConfigError(f"num_cpus is for a Ray started on this machine, but RAY_ADDRESS is {address}")
    try:
        if address:
            ray.init(logging_level=level, log_to_driver=debug)
        else:
            # For this cluster alone, and in no file: Ray would write one into the home folder, readable by all.
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
            os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", str(_IDLE_WORKER_MS))
            ray.init(
                # "local" and not None: a stale cluster's address on this machine must not be picked up.
                address="local",
                num_cpus=num_cpus,
                include_dashboard=False,
                object_store_memory=None if _has_gpu() else _LOCAL_OBJECT_STORE_BYTES,
                logging_level=level,
                log_to_driver=debug,
            )
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ClusterError(f"cannot connect to Ray: {one_line(error)}") from error


def _cluster() -> Cluster:
    total = ray.cluster_resources()
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    # A head without CPUs runs no worker.
    memory = [node["memory"] for node in nodes if node.get("CPU") and "memory" in node]
    return Cluster(
        num_cpus=total.get("CPU", 0.0),
        num_gpus=total.get("GPU", 0.0),
        largest_node_cpus=max((node.get("CPU", 0.0) for node in nodes), default=0.0),
        smallest_node_memory_bytes=int(min(memory, default=0)),
    )


def _has_gpu() -> bool:
    import torch  # slow to import: only when a cluster is started here

    return torch.cuda.is_available()
