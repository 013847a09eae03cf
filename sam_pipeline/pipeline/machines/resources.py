"""Dividing a cluster among the stages, and refusing a division that could never be scheduled.

Ray Data waits without a message when actors hold every CPU, and it starts no writing task while its own reservation
for writing does not fit: then results are committed only after all reading has ended. So the division is worked out
first, in the way in which Ray Data will reserve.

How Ray Data 2.60 reserves CPUs. Its autoscaling coordinator grants a run what its stages ask for, plus what is left on
each machine, rounded down to whole CPUs: so less than there are. Each of our four stages then reserves an eighth of
what was granted; at least one task or its whole pool of actors, at most as many as it may have at once. Stages reserve
in their order, writing last, and one for which too little is left reserves nothing. So a reading and a writing task
take an eighth of a small cluster each, all actors half of it, and a quarter is spare.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from sam_pipeline.config import PoolConfig, ResolvedPrecision
from sam_pipeline.errors import ClusterError

_MAX_CPU_THREADS = 4
# What reading and writing get each, at least: the share of a stage in Ray Data's reservation.
_TASK_SHARE = 1 / 8
# What encoding and decoding get, at most.
_ENCODE_SHARE, _DECODE_SHARE = 1 / 8, 3 / 8

# What an actor on CPUs may have of a machine: tasks that read for it are to fit beside it.
_MOST_OF_A_NODE = 3 / 4

# Images a second that one GPU computes; its CPUs must keep up with that.
GPU_IMAGES_PER_S = {"vit_t": 100, "vit_b": 100, "vit_l": 60, "vit_h": 40, "default": 40}
# CPU seconds for an image of 1500 x 2250 pixels and 32 x 32 points: to read it (fetch, decode, resize, put into a
# block), and to finish its masks once a GPU has found their edges.
READ_CPU_S, FINISH_CPU_S = 0.04, 0.002
_LEAST_FINISHERS = 2
LEAST_FINISH_CPUS = 0.25

_NO_GPU = (
    "device cuda was asked for, and the cluster has no GPU: --gpus N waits for machines that are still to come, "
    "--device cpu computes without any"
)

# 8 keep a GPU busy; with more there are fewer gaps between batches.
_GPU_BATCH_SIZE = 16
# In Ray's object store.
_CROP_BYTES, _EMBEDDING_BYTES = 3 * 2**20, {"fp32": 4 * 2**20, "fp16": 2 * 2**20, "bf16": 2 * 2**20}


@dataclass(frozen=True)
class Cluster:
    """What Ray reports of the machines."""

    num_cpus: float
    num_gpus: float
    largest_node_cpus: float
    """CPUs of the machine that has the most."""
    smallest_node_memory_bytes: int
    """Memory of the worker machine that has the least, without what the object store takes."""
    smallest_object_store_bytes: int
    """The smallest object store of a worker machine; 0 if none says."""
    least_cpus_a_gpu: float
    """CPUs for each GPU of the machine with GPUs that has the fewest; 0 if there is none."""
    smallest_node_cpus: float
    """CPUs of the machine that has the fewest, but some."""
    gpus_by_resource: Mapping[str, float] = field(default_factory=dict)
    """GPUs of the machines that have a resource, by its name."""
    num_nodes: int = 1
    """Machines with CPUs."""


@dataclass(frozen=True)
class Resources:
    """What each stage gets; every field is resolved."""

    device: Literal["cpu", "cuda"]
    encode_actors: int
    decode_actors: int
    encode_batch_size: int
    encode_cpus: float
    decode_cpus: float
    encode_gpus: float
    decode_gpus: float
    read_cpus: float
    write_cpus: float
    threads: int
    finishers: int
    """Threads of a decoder that make masks of what the device has found."""
    shard_rows: int
    read_tasks: int = 1
    """Reading tasks at once, at most: they leave the CPUs that writing needs."""
    write_tasks: int = 1
    """Writing tasks at once, at most."""
    encode_on: str | None = None
    """Resource of the machines that encode; None: any."""
    decode_on: str | None = None
    """Resource of the machines that decode; None: any."""

    @property
    def shares_gpus(self) -> bool:
        """Whether an encoder and its decoders are to be on one GPU: where together they take no more than one."""
        if self.encode_on is not None:
            return False
        is_even = self.decode_actors % self.encode_actors == 0 and min(self.encode_gpus, self.decode_gpus) > 0
        return self.device == "cuda" and is_even and self.gpu_bundle["GPU"] <= 1

    @property
    def gpu_bundle(self) -> dict[str, float]:
        """What an encoder and its decoders reserve on a GPU that they share."""
        decoders = self.decode_actors // self.encode_actors
        return {
            "GPU": self.encode_gpus + decoders * self.decode_gpus,
            "CPU": self.encode_cpus + decoders * self.decode_cpus,
        }


def divide(
    pools: PoolConfig,
    device: Literal["auto", "cpu", "cuda"],
    model_type: str,
    cluster: Cluster,
) -> Resources:
    """Divide a cluster.

    Each GPU hosts an encoder and a decoder actor; the decoder gets the CPUs that finish its masks at the GPU's rate. On
    CPUs decoding costs by far the most, so it gets three quarters of what actors get.

    Args:
        pools: the user's settings, which win over every default.
        device: "auto", "cpu" or "cuda".
        model_type: which SAM: see registry.py.
        cluster: what Ray reports of the machines.

    Raises:
        ClusterError: the smallest possible set of actors and tasks does not fit, with the arithmetic.
    """
    num_cpus, num_gpus = cluster.num_cpus, cluster.num_gpus
    if device != "cpu" and (pools.encode_on or pools.decode_on) and num_gpus < 1:
        raise ClusterError(
            f"--encode-on {pools.encode_on} and --decode-on {pools.decode_on} choose among machines with GPUs, and the "
            "cluster has none: start them first, or leave the flags out"
        )
    if device == "auto":
        device = "cuda" if num_gpus >= 1 else "cpu"
    if device == "cuda" and not num_gpus:
        raise ClusterError(_NO_GPU)
    resources = _on_gpus(pools, cluster, model_type) if device == "cuda" else _on_cpus(pools, cluster)
    _check_fits(resources, num_cpus, num_gpus)
    resources = _with_tasks(resources, num_cpus)
    _check_fits_a_node(resources, cluster)
    return resources


def divide_again(
    pools: PoolConfig, device: Literal["auto", "cpu", "cuda"], model_type: str, cluster: Cluster
) -> Resources:
    """Divide a cluster whose machines have changed since the start of the run.

    What the user set is left aside if it no longer fits: it was for the machines of the start.

    Raises:
        ClusterError: nothing fits, with the arithmetic.
    """
    try:
        return divide(pools, device, model_type, cluster)
    except ClusterError:
        kept = PoolConfig(
            gpus=pools.gpus,
            encode_batch_size=pools.encode_batch_size,
            threads=pools.threads,
            shard_rows=pools.shard_rows,
        )
        return divide(kept, device, model_type, cluster)


def needed_cpus(r: Resources) -> float:
    """CPUs of all actors, of a reading task and of a writing task: actors start at once, and tasks beside them."""
    return actor_cpus(r) + r.read_cpus + r.write_cpus


def needed_gpus(r: Resources) -> float:
    """GPUs of all actors."""
    return r.encode_actors * r.encode_gpus + r.decode_actors * r.decode_gpus


def actor_cpus(r: Resources) -> float:
    """CPUs of all actors."""
    return r.encode_actors * r.encode_cpus + r.decode_actors * r.decode_cpus


def fits(r: Resources, cluster: Cluster) -> bool:
    """Whether a cluster has all that a division reserves."""
    return needed_cpus(r) <= cluster.num_cpus + 1e-9 and needed_gpus(r) <= cluster.num_gpus + 1e-9


def num_pairs_that_fit(r: Resources, cluster: Cluster) -> int:
    """How many GPUs of a cluster can be shared by an encoder and decoders of the same sizes."""
    cpus = cluster.num_cpus - r.read_cpus - r.write_cpus + 1e-9
    return max(0, min(int(cluster.num_gpus + 1e-9), int(cpus / r.gpu_bundle["CPU"])))


def with_pairs(r: Resources, num_pairs: int, num_cpus: float) -> Resources:
    """The same division with another number of encoders, each with its decoders, on a cluster of num_cpus."""
    decoders = r.decode_actors // r.encode_actors
    return _with_tasks(replace(r, encode_actors=num_pairs, decode_actors=decoders * num_pairs), num_cpus)


def _on_gpus(pools: PoolConfig, cluster: Cluster, model_type: str) -> Resources:
    num_cpus, num_pairs = cluster.num_cpus, max(1, int(min(cluster.num_gpus, pools.gpus or math.inf)))
    # Actors that share a GPU are on its machine, which may have few of the CPUs.
    cpus_a_gpu = min(num_cpus / num_pairs, cluster.least_cpus_a_gpu)
    finishing_cpus = GPU_IMAGES_PER_S[model_type] * FINISH_CPU_S
    decode_cpus = pools.decode_cpus or _round(min(1 + finishing_cpus, _DECODE_SHARE * cpus_a_gpu))
    return Resources(
        device="cuda",
        encode_actors=pools.encode_actors or _num_gpus_with(pools.encode_on, cluster) or num_pairs,
        decode_actors=pools.decode_actors or _num_gpus_with(pools.decode_on, cluster) or num_pairs,
        encode_batch_size=pools.encode_batch_size or _GPU_BATCH_SIZE,
        encode_cpus=pools.encode_cpus or _round(min(1.0, _ENCODE_SHARE * cpus_a_gpu)),
        decode_cpus=decode_cpus,
        encode_gpus=pools.encode_gpus or (0.5 if pools.encode_on is None else 1.0),
        decode_gpus=pools.decode_gpus or (0.5 if pools.decode_on is None else 1.0),
        encode_on=pools.encode_on,
        decode_on=pools.decode_on,
        read_cpus=pools.read_cpus or min(1.0, _round(_TASK_SHARE * num_cpus)),
        write_cpus=min(0.5, _round(_TASK_SHARE * num_cpus)),
        threads=pools.threads or 1,
        finishers=max(_LEAST_FINISHERS, round(decode_cpus - 1)),
        shard_rows=pools.shard_rows or 256,
    )


def _num_gpus_with(resource: str | None, cluster: Cluster) -> int | None:
    """GPUs of the machines that have a resource; None if none is asked for."""
    if resource is None:
        return None
    if number := int(cluster.gpus_by_resource.get(resource, 0)):
        return number
    there = ", ".join(sorted(cluster.gpus_by_resource)) or "none"
    raise ClusterError(f"no machine with GPUs has the resource {resource}; such machines have: {there}")


def _on_cpus(pools: PoolConfig, cluster: Cluster) -> Resources:
    num_cpus = cluster.num_cpus
    # An actor of more threads than its machine has CPUs would leave those of other machines idle.
    num_threads = max(1, min(_MAX_CPU_THREADS, int(cluster.smallest_node_cpus)))
    threads = pools.threads or num_threads
    decode_actors = pools.decode_actors or max(1, int(num_cpus) // num_threads)
    encode_actors = pools.encode_actors or max(1, decode_actors // 8)
    for name, number, cpus in (
        ("encode", encode_actors, pools.encode_cpus),
        ("decode", decode_actors, pools.decode_cpus),
    ):
        if number > max(1, num_cpus) and cpus is None:
            raise ClusterError(
                f"the run cannot be scheduled: --{name}-actors {number}, the cluster has {num_cpus:g} CPUs; lower it, "
                f"or say with --{name}-cpus what share of a CPU is enough for one"
            )
    # Few actors on many machines would each get more than a machine has.
    decode_cpus = pools.decode_cpus or _round(
        min(_DECODE_SHARE * num_cpus / decode_actors, _MOST_OF_A_NODE * cluster.largest_node_cpus)
    )
    return Resources(
        device="cpu",
        encode_actors=encode_actors,
        decode_actors=decode_actors,
        encode_batch_size=pools.encode_batch_size or 1,
        # No more than a decoder: an actor has to fit on one machine, which may hold few of the cluster's CPUs.
        encode_cpus=pools.encode_cpus or min(decode_cpus, _round(_ENCODE_SHARE * num_cpus / encode_actors)),
        decode_cpus=decode_cpus,
        encode_gpus=0,
        decode_gpus=0,
        read_cpus=pools.read_cpus or min(1.0, _round(_TASK_SHARE * num_cpus)),
        write_cpus=min(0.5, _round(_TASK_SHARE * num_cpus)),
        threads=threads,
        finishers=_LEAST_FINISHERS,
        shard_rows=pools.shard_rows or 4,
    )


def _with_tasks(r: Resources, num_cpus: float) -> Resources:
    """As many tasks at once as fit beside all actors: an eighth of the CPUs for writing, the rest for reading."""
    free_cpus = num_cpus - actor_cpus(r) + 1e-9
    write_tasks = max(1, int(min(_TASK_SHARE * num_cpus, free_cpus - r.read_cpus) / r.write_cpus))
    read_tasks = max(1, int((free_cpus - write_tasks * r.write_cpus) / r.read_cpus))
    return replace(r, read_tasks=read_tasks, write_tasks=write_tasks)


def _round(cpus: float) -> float:
    # Ray counts in ten-thousandths of a CPU.
    return max(0.0001, int(cpus * 10_000) / 10_000)


def _check_fits(r: Resources, num_cpus: float, num_gpus: float) -> None:
    if needed_cpus(r) > num_cpus + 1e-9:
        raise ClusterError(
            f"the run cannot be scheduled: {r.encode_actors} encoder x {r.encode_cpus:g} CPUs + {r.decode_actors} "
            f"decoder x {r.decode_cpus:g} + reading {r.read_cpus:g} + writing {r.write_cpus:g} = "
            f"{needed_cpus(r):g} CPUs, the cluster has {num_cpus:g}; lower --encode-actors, --decode-actors or their "
            "--*-cpus"
        )
    if needed_gpus(r) > num_gpus + 1e-9:
        raise ClusterError(
            f"the run cannot be scheduled: {r.encode_actors} encoder x {r.encode_gpus:g} GPUs + {r.decode_actors} "
            f"decoder x {r.decode_gpus:g} = {needed_gpus(r):g} GPUs, the cluster has {num_gpus:g}; "
            "lower --encode-actors, --decode-actors or their --*-gpus, or use --device cpu"
        )


def check_batch_fits(num_crops: int, precision: ResolvedPrecision, store_bytes: int) -> None:
    """Refuse a batch that Ray's object store cannot hold.

    Args:
        num_crops: in a block.
        precision: of its embeddings.
        store_bytes: see Cluster; 0 is not known.

    Raises:
        ClusterError: it cannot, with the arithmetic.
    """
    batch_bytes = num_crops * (_CROP_BYTES + _EMBEDDING_BYTES[precision])
    if 0 < store_bytes < batch_bytes:
        crop, embedding, batch, store = (
            f"{num_bytes / 2**20:.0f} MiB"
            for num_bytes in (_CROP_BYTES, _EMBEDDING_BYTES[precision], batch_bytes, store_bytes)
        )
        raise ClusterError(
            f"the run cannot be scheduled: a batch of {num_crops} crops x ({crop} of pixels + {embedding} of "
            f"embedding) = {batch}, Ray's object store on the smallest machine has {store}; lower --encode-batch-size "
            "or --crop-n-layers, or enlarge the store"
        )


def _check_fits_a_node(r: Resources, cluster: Cluster) -> None:
    node_cpus = cluster.largest_node_cpus
    largest = max(r.encode_cpus, r.decode_cpus, r.read_cpus)
    if largest > node_cpus + 1e-9:
        raise ClusterError(
            f"the run cannot be scheduled: an actor or task reserves {largest:g} CPUs, the largest machine has "
            f"{node_cpus:g}; lower --encode-cpus, --decode-cpus or --read-cpus"
        )
    bundle_cpus = r.gpu_bundle["CPU"]
    if r.shares_gpus and bundle_cpus > cluster.least_cpus_a_gpu + 1e-9:
        raise ClusterError(
            f"the run cannot be scheduled: the actors of a GPU reserve {bundle_cpus:g} CPUs, and a machine has "
            f"{cluster.least_cpus_a_gpu:g} for each of its GPUs; lower --encode-cpus or --decode-cpus"
        )
