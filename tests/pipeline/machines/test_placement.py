"""Which actors meet on which GPU, on clusters of logical ones."""

import copy
from collections import Counter
from contextlib import ExitStack
from functools import partial
from types import SimpleNamespace

import pytest
import ray

from sam_pipeline.config import PoolConfig
from sam_pipeline.errors import RunFailedError
from sam_pipeline.pipeline.machines import placement
from sam_pipeline.pipeline.machines.placement import SharedGpus, shared_gpus
from sam_pipeline.pipeline.machines.resources import Cluster, divide
from tests.clusters import ray_head, ray_node

pytestmark = pytest.mark.slow


@pytest.fixture
def connect(start, base_env):
    """Starts machines of logical CPUs and GPUs, and connects to them."""
    env = base_env | {"RAY_AUTH_MODE": "disabled"}  # this process read its own settings when it imported Ray

    with ExitStack() as machines:

        def start_and_connect(num_machines, gpus_each):
            each = {"num_cpus": 3 * gpus_each, "num_gpus": gpus_each, "object_store_bytes": 100 * 2**20}
            head = machines.enter_context(ray_head(start, env, **each))
            for _ in range(num_machines - 1):
                machines.enter_context(ray_node(start, env, head, **each))
            ray.init(address=head.address, log_to_driver=False, logging_level="ERROR")
            machines.callback(ray.shutdown)

        yield start_and_connect


def division(num_gpus, **pools):
    cluster = Cluster(3 * num_gpus, num_gpus, 3 * num_gpus, 2**40, 2**40, 2, 3 * num_gpus)
    return divide(PoolConfig(**pools), "cuda", "vit_h", cluster)


def place(**reserved):
    """An actor that says where it is; of a class that travels with it."""

    class Place:
        def __call__(self):
            context = ray.get_runtime_context()
            (gpu,) = context.get_accelerator_ids()["GPU"]
            return context.get_node_id(), gpu

    return ray.remote(**reserved)(Place)


def started(number, num_cpus, num_gpus, make_arguments):
    """A pool as Ray Data starts it."""
    actor = place(num_cpus=num_cpus, num_gpus=num_gpus)
    return [actor.options(**make_arguments()).remote() for _ in range(number)]


def where(pool):
    """(machine, GPU) → how many actors of the pool are there."""
    return Counter(ray.get([actor.__call__.remote() for actor in pool], timeout=120))


@pytest.mark.parametrize(
    ("num_machines", "gpus_each", "decoders_a_gpu"),
    [
        pytest.param(1, 1, 1, marks=pytest.mark.soak),
        (2, 2, 1),
        pytest.param(2, 2, 2, marks=pytest.mark.soak),
        pytest.param(1, 8, 1, marks=pytest.mark.soak),
        pytest.param(4, 8, 1, marks=pytest.mark.soak),
    ],
)
def test_each_gpu_has_an_encoder_and_its_decoders_in_whatever_order_they_start(
    connect, num_machines, gpus_each, decoders_a_gpu
):
    connect(num_machines, gpus_each)
    num_gpus = num_machines * gpus_each
    r = division(num_gpus, decode_actors=decoders_a_gpu * num_gpus, decode_gpus=0.5 / decoders_a_gpu)
    with shared_gpus(r) as gpus:
        decoders = started(r.decode_actors, r.decode_cpus, r.decode_gpus, gpus.place_pool())
        encoders = started(r.encode_actors, r.encode_cpus, r.encode_gpus, gpus.place_pool())
        gpus = where(encoders)
        assert len(gpus) == num_gpus
        assert set(gpus.values()) == {1}
        assert where(decoders) == {gpu: decoders_a_gpu for gpu in gpus}
    # Then the GPUs are free for the isolation pass.
    alone = place(num_gpus=1)
    assert len(where([alone.remote() for _ in range(num_gpus)])) == num_gpus


def test_gpus_that_are_taken_are_waited_for_or_refused_in_one_line(connect, monkeypatch, caplog):
    monkeypatch.setattr(placement, "_WAIT_S", 2)
    connect(1, 2)
    taken = [place(num_gpus=1).remote()]
    where(taken)
    with shared_gpus(division(2)):
        assert "1 of 2 GPUs are free" in caplog.text
    taken.append(place(num_gpus=1).remote())
    where(taken)
    with pytest.raises(RunFailedError, match="none of 2 GPUs is free"), shared_gpus(division(2)):
        pass


def test_without_gpus_that_are_shared_nothing_is_held():
    with shared_gpus(division(2, encode_actors=1, decode_actors=3)) as gpus:
        assert gpus.place_pool() is None


def test_an_actor_that_takes_the_place_of_another_gets_its_gpu(monkeypatch):
    """Pools that Ray Data fills up again, in whatever order their actors were lost."""
    groups = [SimpleNamespace(id=SimpleNamespace(hex=lambda name=name: name), name=name) for name in "abc"]
    states = dict.fromkeys("abc", "CREATED")
    monkeypatch.setattr(placement, "placement_group", lambda bundles: groups.pop(0))
    monkeypatch.setattr(
        placement, "placement_group_table", lambda: {name: {"state": state} for name, state in states.items()}
    )
    monkeypatch.setattr(placement, "PlacementGroupSchedulingStrategy", lambda group: group.name)
    gpus = SharedGpus(division(2))
    gpus.hold(2)
    encoders, decoders = gpus.place_pool(), gpus.place_pool()

    def places(make, number):
        return [make()["scheduling_strategy"] for _ in range(number)]

    assert (places(encoders, 2), places(decoders, 2)) == (["a", "b"], ["a", "b"])
    gpus.match([["e1", "e2"], ["d1", "d2"]])
    gpus.match([["e1"], ["d1", "d2"]])
    assert places(encoders, 1) == ["b"]
    gpus.match([["e1", "e3"], ["d2"]])
    assert places(decoders, 1) == ["a"]
    gpus.match([["e1", "e3"], ["d2", "d3"]])
    gpus.hold(3)
    assert (places(encoders, 1), places(decoders, 1)) == (["c"], ["c"])


def test_a_copy_of_ray_datas_settings_holds_the_same_gpus():
    gpus = SharedGpus(division(2))
    assert copy.deepcopy(partial(print, gpus)).args[0] is gpus


def test_of_gpus_that_are_held_those_go_that_have_no_machine(monkeypatch):
    groups = [SimpleNamespace(id=SimpleNamespace(hex=lambda name=name: name), name=name) for name in "abc"]
    states = {"a": "CREATED", "b": "RESCHEDULING", "c": "CREATED"}
    removed = []
    monkeypatch.setattr(placement, "placement_group", lambda bundles: groups.pop(0))
    monkeypatch.setattr(
        placement, "placement_group_table", lambda: {name: {"state": state} for name, state in states.items()}
    )
    monkeypatch.setattr(placement, "remove_placement_group", lambda group: removed.append(group.name))
    gpus = SharedGpus(division(3))
    gpus.hold(3)
    gpus.hold(2)
    assert removed == ["b"]
    gpus.hold(1)
    assert removed == ["b"]  # never one that works
