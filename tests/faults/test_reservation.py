"""Ray Data's own classes, asked: can each stage of a divided cluster start a task, writing above all?

Reading and writing tasks need a reservation: without one they run only when the other stages have ended. Then results
are committed after all reading, and a kill costs hours.
"""

from itertools import product

import numpy as np
import pytest
import ray
from ray.data._internal.cluster_autoscaler.base_autoscaling_coordinator import STANDARD_RESOURCE_TYPES
from ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator import _AutoscalingCoordinatorActor
from ray.data._internal.execution.block_ref_counter import BlockRefCounter
from ray.data._internal.execution.interfaces import ExecutionOptions, ExecutionResources
from ray.data._internal.execution.resource_manager import ResourceManager
from ray.data._internal.execution.streaming_executor_state import build_streaming_topology
from ray.data._internal.logical.optimizers import get_execution_plan

from sam_pipeline.config import PoolConfig
from sam_pipeline.pipeline.machines.cluster import connected
from sam_pipeline.pipeline.machines.resources import Cluster, divide
from sam_pipeline.pipeline.run import configured_context, shard_dataset
from tests.pipeline.jobs import job_of

# Ray Data warns of its own settings whenever its context is copied.
pytestmark = pytest.mark.filterwarnings("ignore:.* is deprecated:DeprecationWarning")

NUM_IMAGES = 10_000
_MEMORY_BYTES = 2**36


@pytest.fixture(scope="module")
def small_ray():
    """Where the graph is built; what it is built for is said to Ray's classes."""
    with connected(1):
        yield


def of_one_machine(num_cpus, num_gpus):
    return Cluster(num_cpus, num_gpus, num_cpus, _MEMORY_BYTES, _MEMORY_BYTES, num_cpus / max(1, num_gpus), num_cpus)


def machine(num_cpus, num_gpus):
    resources = {"CPU": num_cpus, "GPU": num_gpus, "memory": _MEMORY_BYTES, "object_store_memory": _MEMORY_BYTES}
    return {"Alive": True, "NodeID": "", "Labels": {}, "Resources": resources}


def topology_of(resources, context):
    dataset = shard_dataset(np.arange(NUM_IMAGES), 64, job_of(), resources, None, lambda: None)
    plan, _ = get_execution_plan(dataset._logical_plan)
    return build_streaming_topology(plan.dag, ExecutionOptions(), BlockRefCounter(lambda *_: True))


def granted(stages, counts, nodes, monkeypatch):
    """What the coordinator grants a run that asks for so many tasks and actors of its stages."""
    monkeypatch.setattr(ray, "is_initialized", lambda: False)  # else it starts a thread
    coordinator = _AutoscalingCoordinatorActor(lambda: 0.0, lambda *_, **__: None, lambda: nodes)
    monkeypatch.undo()
    bundles = []
    for stage, count in zip(stages, counts, strict=True):
        wanted = stage.min_scheduling_resources()
        bundles += [{"CPU": wanted.cpu, **({"GPU": wanted.gpu} if wanted.gpu else {})}] * count
    coordinator.request_resources("run", bundles, 60, request_remaining=list(STANDARD_RESOURCE_TYPES))
    total = ExecutionResources.zero()
    for reserved in coordinator.get_reserved_resources("run").values():
        total = total.add(ExecutionResources.from_resource_dict(reserved))
    return total


ON_CPUS = [(cpus, 0, {}) for cpus in (1, 2, 3, 4, 5, 6, 7, 8, 16, 64)]
ON_GPUS = [(cpus, gpus, {}) for cpus, gpus in product((1, 2, 3, 4, 8, 16, 64, 192), (1, 8)) if cpus >= gpus]
AS_THE_USER_SAYS = [(2, 0, {"encode_cpus": 0.4, "decode_cpus": 1.1}), (2, 0, {"read_cpus": 0.7})]


@pytest.mark.parametrize(("num_cpus", "num_gpus", "pools"), [*ON_CPUS, *ON_GPUS, *AS_THE_USER_SAYS])
def test_every_stage_can_start_a_task_whatever_ray_grants(small_ray, num_cpus, num_gpus, pools, monkeypatch):
    resources = divide(
        PoolConfig(**pools),
        "auto",
        "vit_h",
        of_one_machine(num_cpus, num_gpus),
    )
    context = configured_context(600, resources)
    topology = topology_of(resources, context)
    stages = [stage for stage in topology if stage.input_dependencies]
    limits = [stage.get_max_concurrency_limit() for stage in stages]
    for counts in product(*(sorted({1, min(2, limit), limit}) for limit in limits)):
        grant = granted(stages, counts, [machine(num_cpus, num_gpus)], monkeypatch)
        manager = ResourceManager(
            topology, ExecutionOptions(), lambda grant=grant: grant, context, BlockRefCounter(lambda *_: True)
        )
        manager.update_usages()
        read, _, _, write = stages
        assert manager.get_budget(write).cpu >= resources.write_cpus, (counts, grant)
        assert all(map(manager.op_resource_allocator.can_submit_new_task, stages)), (counts, grant)
        # Actors need none: all start at once, and what they are given to do reserves nothing.
        reserved = manager.op_resource_allocator._op_reserved
        assert min(reserved[read].cpu, reserved[write].cpu) > 0, (counts, grant, reserved)
    busiest = sum(limit * stage.min_scheduling_resources().cpu for stage, limit in zip(stages, limits, strict=True))
    assert busiest <= num_cpus + 1e-6, "all tasks and actors at once fit on the machines"
