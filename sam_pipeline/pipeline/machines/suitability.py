"""Refusals before any work: what can be said of a cluster before the input is listed, and before workers start."""

from __future__ import annotations

import os
from collections.abc import Iterable

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sam_pipeline.config import AnnotateConfig
from sam_pipeline.errors import ClusterError
from sam_pipeline.pipeline.machines.cluster import connected, has_gpu, is_local
from sam_pipeline.pipeline.machines.resources import NO_GPU, divide
from sam_pipeline.storage.objects.filesystem import protocol_of

_LOOK_TIMEOUT_S = 60.0


def check_cluster_suits(config: AnnotateConfig) -> None:
    """Refuse a cluster that a run could not use: a listing may take hours, and comes before the run.

    Raises:
        ClusterError: it does not answer, has no GPU where one is asked for, or is smaller than the pools.
    """
    if is_local():
        if config.model.device == "cuda" and not has_gpu():
            raise ClusterError(NO_GPU)
        return
    with connected(None) as cluster:
        if config.pools.gpus is None:
            divide(config.pools, config.model.device, config.model.model_type, cluster)


def check_all_machines_see(uris: Iterable[str]) -> None:
    """Refuse places on a disk that not every machine of the cluster sees. Remote places are seen by all.

    Args:
        uris: of files or folders that this machine sees.

    Raises:
        ClusterError: some machines do not, by name.
    """
    paths = [path for path in uris if protocol_of(path) == "file" and os.path.exists(path)]
    machines = {node["NodeID"]: node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]}
    if not paths or len(machines) == 1:
        return
    look = ray.remote(num_cpus=0, max_retries=0)(_unseen)
    looks = {
        host: look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False)).remote(paths)
        for node_id, host in machines.items()
    }
    unseen = {host: ray.get(found, timeout=_LOOK_TIMEOUT_S) for host, found in looks.items()}
    for path in paths:
        if hosts := sorted(host for host, missing in unseen.items() if path in missing):
            raise ClusterError(
                f"{path} is on a disk that {len(hosts)} of {len(machines)} machines do not see, such as {hosts[0]}: "
                "use storage that all of them see, such as s3://"
            )


def _unseen(paths: list[str]) -> list[str]:
    return [path for path in paths if not os.path.exists(path)]
