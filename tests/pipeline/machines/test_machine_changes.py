import re
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace

import pytest

from sam_pipeline.config import PoolConfig
from sam_pipeline.pipeline.machines import machine_changes
from sam_pipeline.pipeline.machines.machine_changes import MachineChanges, MachinesChangedError
from sam_pipeline.pipeline.machines.placement import SharedGpus
from sam_pipeline.pipeline.machines.resources import Cluster, divide, divide_again, needed_cpus
from sam_pipeline.pipeline.machines.stages_in_ray import Stages

EXECUTOR = SimpleNamespace(
    _topology={}, _data_context=SimpleNamespace(execution_no_progress_timeout_s=1000)
)  # of which no actor was lost


def cluster_of(num_cpus, num_gpus=0, cpus_a_gpu=None):
    return Cluster(
        num_cpus,
        num_gpus,
        largest_node_cpus=num_cpus,
        smallest_node_memory_bytes=0,
        smallest_object_store_bytes=0,
        least_cpus_a_gpu=cpus_a_gpu or num_cpus / max(1, num_gpus),
        smallest_node_cpus=num_cpus,
    )


class Pass:
    """A pass over a cluster, with a clock that stands between looks."""

    def __init__(self, monkeypatch, pools, cluster):
        self.cluster, self.now = cluster, 0.0
        monkeypatch.setattr(machine_changes, "current_cluster", lambda: self.cluster)
        monkeypatch.setattr(machine_changes, "time", SimpleNamespace(monotonic=lambda: self.now))
        division = partial(divide_again, pools, "auto", "vit_h")
        resources = divide(pools, "auto", "vit_h", cluster)
        self.sizes = []
        monkeypatch.setattr(Stages, "resize", lambda _, r: self.sizes.append((r.encode_actors, r.decode_actors)))
        self.held = []
        monkeypatch.setattr(SharedGpus, "hold", lambda _, number: self.held.append(number))
        self._callback = MachineChanges(resources, SharedGpus(resources), pools, division)

    def run(self, seconds):
        end = self.now + seconds
        while self.now < end:
            self.now += 1
            self._callback.on_execution_step(EXECUTOR)


@pytest.fixture
def begin(monkeypatch) -> Callable[..., Pass]:
    return partial(Pass, monkeypatch)


@pytest.mark.parametrize(("before", "after"), [(2, 1), (4, 2), (8, 4), (64, 16)])
def test_a_pass_that_reserves_more_than_is_left_is_divided_anew(begin, before, after):
    running = begin(PoolConfig(), cluster_of(before))
    running.run(300)
    running.cluster = cluster_of(after)
    running.run(55)
    with pytest.raises(MachinesChangedError, match=f"were lost: .* the cluster has {after} and 0") as raised:
        running.run(15)
    assert needed_cpus(raised.value.resources) <= after


@pytest.mark.parametrize(("before", "after"), [(2, 4), (2, 6), (16, 64), (64, 72)])
def test_a_pass_is_divided_anew_soon_after_machines_have_joined(begin, before, after):
    running = begin(PoolConfig(), cluster_of(before))
    running.run(300)
    running.cluster = cluster_of(after)
    with pytest.raises(MachinesChangedError, match=f"joined: .* the cluster has {after} and 0") as raised:
        running.run(20)
    assert raised.value.resources == divide(PoolConfig(), "auto", "vit_h", running.cluster)


def test_machines_that_join_are_of_no_use_to_pools_of_a_size_that_was_asked_for(begin):
    pools = PoolConfig(encode_actors=1, decode_actors=1, encode_cpus=0.5, decode_cpus=1)
    running = begin(pools, cluster_of(4))
    running.cluster = cluster_of(64)
    running.run(1000)


@pytest.mark.parametrize(
    ("pools", "after", "used"),
    [
        (PoolConfig(), 4, 4),
        (PoolConfig(gpus=3), 4, 3),
        (PoolConfig(encode_actors=2), 4, 2),
        (PoolConfig(decode_actors=2), 4, 2),
    ],
)
def test_gpus_that_join_are_used_by_the_same_pass_up_to_what_was_asked_for(begin, monkeypatch, pools, after, used):
    running = begin(pools, cluster_of(16, num_gpus=2))
    running.cluster = cluster_of(8 * after, num_gpus=after)
    running.run(20)
    assert running.sizes == [(used, used)]  # if no more, CPUs have joined, too
    running.cluster = cluster_of(8, num_gpus=1)
    running.run(55)
    assert len(running.sizes) == 1
    running.run(15)
    assert running.sizes[-1] == (1, 1)
    assert running.held[-1] == (pools.gpus or 1)
    running.cluster = cluster_of(0)
    running.run(1000)  # waits


def test_several_pairs_that_the_user_put_on_a_gpu_stay(begin):
    shares = PoolConfig(encode_actors=2, decode_actors=2, encode_gpus=0.25, decode_gpus=0.25)
    running = begin(shares, cluster_of(16, num_gpus=1))
    running.run(1000)
    assert running.sizes == []


def test_cpus_that_join_gpus_read_for_them(begin, caplog):
    caplog.set_level("INFO")
    running = begin(PoolConfig(), cluster_of(8, num_gpus=4))
    running.cluster = cluster_of(72, num_gpus=4, cpus_a_gpu=2)
    running.run(20)
    assert running.sizes == [(4, 4)]
    assert re.search(r"^\d\d tasks read from now on, \d before$", caplog.messages[-1])
    running.cluster = cluster_of(73, num_gpus=4, cpus_a_gpu=2)
    running.run(100)
    assert len(running.sizes) == 1, "a seventieth more is not worth it"


def test_who_is_left_of_a_lost_machine_is_given_up_once_the_pass_does_without_it(begin, monkeypatch):
    """Though it is all that is left of its pool: Ray Data has dropped the others, which were idle."""
    lost, killed = object(), []
    monkeypatch.setattr(machine_changes, "is_restarting", lambda actor: actor is lost)
    monkeypatch.setattr(machine_changes.ray, "kill", killed.append)
    running = begin(PoolConfig(), cluster_of(16, num_gpus=2))
    monkeypatch.setattr(Stages, "pools", ["encoders"], raising=False)
    monkeypatch.setattr(Stages, "__init__", lambda *_: None)
    monkeypatch.setattr(Stages, "actors", lambda *_: [lost])
    monkeypatch.setattr(Stages, "forget_dead", lambda _: None)
    monkeypatch.setattr(Stages, "surplus", lambda *_: [])
    running.cluster = cluster_of(8, num_gpus=1)
    running.run(55)
    assert killed == []
    running.run(20)
    assert running.sizes == [(1, 1)]
    assert killed == [lost]


@pytest.mark.parametrize("after", [cluster_of(4 * 16, num_gpus=4, cpus_a_gpu=1), cluster_of(1.5, num_gpus=2)])
def test_gpus_with_other_cpus_are_divided_anew(begin, after):
    running = begin(PoolConfig(), cluster_of(2 * 16, num_gpus=2))
    running.cluster = after
    with pytest.raises(MachinesChangedError):
        running.run(80)
    assert running.sizes == []


@pytest.mark.parametrize(("before", "after"), [(64, 60), (8, 7), (16, 16), (64, 66)])
def test_a_pass_that_still_fits_goes_on(begin, before, after):
    running = begin(PoolConfig(), cluster_of(before))
    running.cluster = cluster_of(after)
    running.run(1000)


def test_a_machine_that_comes_back_within_a_minute_is_waited_for(begin):
    running = begin(PoolConfig(), cluster_of(2))
    for _ in range(20):
        running.cluster = cluster_of(1)
        running.run(50)
        running.cluster = cluster_of(2)
        running.run(10)


def test_machines_are_waited_for_where_no_division_fits(begin):
    running = begin(PoolConfig(), cluster_of(8, num_gpus=1))
    running.cluster = cluster_of(0)
    running.run(1000)


def test_the_users_pools_are_left_aside_once_they_no_longer_fit():
    pools = PoolConfig(encode_cpus=0.3, decode_cpus=0.5, decode_actors=2, encode_batch_size=3, shard_rows=7)
    division = partial(divide_again, pools, "cpu", "vit_t")
    whole, left = division(cluster_of(2)), division(cluster_of(1))
    assert (whole.encode_cpus, whole.decode_cpus, whole.decode_actors) == (0.3, 0.5, 2)
    assert left.decode_actors == 1
    assert (left.encode_batch_size, left.shard_rows) == (3, 7)
    assert needed_cpus(left) <= 1
