"""Refusals before any work: what can be said of a cluster before the input is listed, and before workers start."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sam_pipeline.config import AnnotateConfig
from sam_pipeline.errors import ClusterError
from sam_pipeline.pipeline.machines.cluster import connected, has_gpu, is_local
from sam_pipeline.pipeline.machines.resources import divide
from sam_pipeline.storage.objects.filesystem import absolute_uri, protocol_of

_LOOK_TIMEOUT_S = 60.0

_NO_GPU_HERE = (
    "GPUs were asked for, and torch finds none on this machine: set RAY_ADDRESS to use a cluster, or --device cpu to "
    "compute without any"
)


def check_cluster_suits(config: AnnotateConfig) -> None:
    """Refuse a cluster that a run could not use: a listing may take hours, and comes before the run.

    Raises:
        ClusterError: it does not answer, has no GPU where one is asked for, is smaller than the pools, or has machines
            that do not see the output.
    """
    pools = config.pools
    if is_local():
        asks = config.model.device == "cuda" or pools.gpus is not None or pools.encode_on or pools.decode_on
        if asks and config.model.device != "cpu" and not has_gpu():
            raise ClusterError(_NO_GPU_HERE)
        return
    with connected(config.num_cpus) as cluster:
        if pools.gpus is None:
            divide(pools, config.model.device, config.model.model_type, cluster)
        _check_output_is_shared(absolute_uri(config.output))


def check_all_machines_see(uris: Iterable[str]) -> None:
    """Refuse places on a disk that not every machine of the cluster sees. Remote places are seen by all.

    Args:
        uris: of files or folders that this machine sees, as paths or file: URIs.

    Raises:
        ClusterError: some machines do not, by name.
    """
    local = (uri.removeprefix("file://") for uri in uris if protocol_of(uri) == "file")
    _check_all_see({path: path for path in local if os.path.exists(path)})


def _check_output_is_shared(output: str) -> None:
    """Check by a temporary file that all machines see one output folder: each may have a folder of that path."""
    if protocol_of(output) != "file" or len(_machines()) == 1:
        return
    folder = next(parent for parent in (output, *map(str, Path(output).parents)) if os.path.isdir(parent))
    if os.access(folder, os.W_OK):  # else the run says what is wrong
        with tempfile.NamedTemporaryFile(prefix=".sam-pipeline-", dir=folder) as file:
            _check_all_see({file.name: output})


def _check_all_see(names: Mapping[str, str]) -> None:
    """Refuse paths that some machines do not see; names has what the user calls each."""
    paths, machines = list(names), _machines()
    if not paths or len(machines) == 1:
        return
    look = ray.remote(num_cpus=0, max_retries=0)(_unseen)
    looks = {
        node_id: look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False)).remote(paths)
        for node_id in machines
    }
    unseen = {node_id: ray.get(found, timeout=_LOOK_TIMEOUT_S) for node_id, found in looks.items()}
    for path in paths:
        if hosts := sorted(machines[node_id] for node_id, missing in unseen.items() if path in missing):
            raise ClusterError(
                f"{names[path]} is on a disk that {len(hosts)} of {len(machines)} machines do not see, such as "
                f"{hosts[0]}: use storage that all of them see, such as s3://"
            )


def _machines() -> dict[str, str]:
    """Host names by id: machines may have the same."""
    return {node["NodeID"]: node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]}


def _unseen(paths: list[str]) -> list[str]:
    return [path for path in paths if not os.path.exists(path)]
