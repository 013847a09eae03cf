from collections.abc import Callable
from functools import partial
from types import SimpleNamespace

import pytest

from sam_pipeline.config import PoolConfig
from sam_pipeline.pipeline.machines import lost_machines
from sam_pipeline.pipeline.machines.lost_machines import LostMachines, TooFewMachinesError
from sam_pipeline.pipeline.machines.resources import Cluster, divide, divide_again, needed_cpus

EXECUTOR = SimpleNamespace(
    _topology={}, _data_context=SimpleNamespace(execution_no_progress_timeout_s=1000)
)  # of which no actor was lost


def cluster_of(num_cpus, num_gpus=0):
    return Cluster(num_cpus, num_gpus, num_cpus, 0, 0, num_cpus / max(1, num_gpus))


class Pass:
    """A pass over a cluster, with a clock that stands between looks."""

    def __init__(self, monkeypatch, pools, cluster):
        self.cluster, self.now = cluster, 0.0
        monkeypatch.setattr(lost_machines, "current_cluster", lambda: self.cluster)
        monkeypatch.setattr(lost_machines, "time", SimpleNamespace(monotonic=lambda: self.now))
        division = partial(divide_again, pools, "auto", "vit_h")
        self._callback = LostMachines(divide(pools, "auto", "vit_h", cluster), division)

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
    with pytest.raises(TooFewMachinesError, match=f"the cluster has {after} left") as raised:
        running.run(15)
    assert needed_cpus(raised.value.resources) <= after


@pytest.mark.parametrize(("before", "after"), [(64, 60), (8, 7), (16, 16), (16, 64)])
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
