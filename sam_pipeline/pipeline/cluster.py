"""Connecting to Ray: the cluster that RAY_ADDRESS names, or one of this machine's own for the run's duration."""

from __future__ import annotations

import logging
import os
import secrets

import ray

from sam_pipeline.errors import ConfigError

logger = logging.getLogger(__name__)

# A local run on CPUs holds a few images in flight; Ray's default of a third of the memory would be taken from the user.
_LOCAL_OBJECT_STORE_BYTES = 2**30


def connect(num_cpus: int | None) -> tuple[float, float, float]:
    """Connect to Ray unless this process is connected already.

    Args:
        num_cpus: CPUs of a Ray started here; None takes all.

    Returns:
        The cluster's CPUs, its GPUs, and the CPUs of its largest machine.

    Raises:
        ConfigError: num_cpus was given for a cluster that is there already, or the cluster does not answer.
    """
    if not ray.is_initialized():
        debug = logger.isEnabledFor(logging.DEBUG)
        if not debug:
            # The driver's core worker prints warnings that nobody running a pipeline can act on.
            os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
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
            raise ConfigError(f"cannot connect to Ray: {error}") from error
    resources = ray.cluster_resources()
    node_cpus = [node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"]]
    return resources.get("CPU", 0.0), resources.get("GPU", 0.0), max(node_cpus)


def _has_gpu() -> bool:
    import torch  # slow to import: only when a cluster is started here

    return torch.cuda.is_available()
