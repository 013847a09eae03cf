"""Waiting for machines with GPUs that are still to come: clusters that grow from none."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ray.autoscaler.sdk import request_resources

from sam_pipeline.config import PoolConfig
from sam_pipeline.errors import ClusterError
from sam_pipeline.pipeline.machines.cluster import current_cluster, is_local
from sam_pipeline.pipeline.machines.resources import Cluster

_LOOK_INTERVAL_S = 1.0
_SAY_INTERVAL_S = 30.0
# A signal ends the program within three seconds.
_TAKE_BACK_S = 0.5

logger = logging.getLogger(__name__)


@contextmanager
def awaited_gpus(pools: PoolConfig, cluster: Cluster) -> Iterator[Cluster]:
    """Ask Ray's autoscaler for the GPUs that are wanted, and wait for some of them.

    In the block, placement groups ask for the others: see SharedGpus.

    Args:
        pools: gpus says how many are asked for, min_gpus how many are waited for, gpu_wait_s for how long.
        cluster: as it is now.

    Yields:
        The cluster with these GPUs; as it was if none are wanted.

    Raises:
        ClusterError: they did not come in time.
    """
    if pools.gpus is None:
        yield cluster
        return
    least = pools.min_gpus or 1
    if is_local() and cluster.num_gpus < least:
        raise ClusterError(f"this machine has {cluster.num_gpus:g} of the {least} GPUs that the run needs (--min-gpus)")
    try:
        yield _wait(pools.gpus, least, pools.gpu_wait_s)
    finally:
        _take_back()


def _take_back() -> None:
    """Withdraw the request, so that no machine comes for nobody. Wait only briefly: the cluster may be gone."""

    def ask() -> None:
        with suppress(Exception):  # what is said is why the block ended
            request_resources(bundles=[])

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_TAKE_BACK_S)


def _wait(wanted: int, least: int, limit_s: float) -> Cluster:
    start = time.monotonic()
    last_said = -_SAY_INTERVAL_S
    while True:
        # Asked again in each round: Ray Data's own requests replace ours.
        request_resources(bundles=[{"GPU": 1}] * wanted)
        if (cluster := current_cluster()).num_gpus >= least:
            return cluster
        waited_s = time.monotonic() - start
        if waited_s > limit_s:
            raise ClusterError(
                f"the cluster has {cluster.num_gpus:g} of the {least} GPUs that the run needs, after {limit_s:g} s "
                "(--gpu-wait-s): look at its autoscaler, or ask for fewer with --min-gpus"
            )
        if waited_s - last_said >= _SAY_INTERVAL_S:
            last_said = waited_s
            logger.info(
                "%g of %d GPUs are there; the run begins with %d, and waits %.0f s more at most",
                cluster.num_gpus,
                wanted,
                least,
                limit_s - waited_s,
            )
        time.sleep(_LOOK_INTERVAL_S)
