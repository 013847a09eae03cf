import logging
import threading
import time
from types import SimpleNamespace

import pytest

from sam_pipeline.config import PoolConfig
from sam_pipeline.errors import ClusterError
from sam_pipeline.pipeline.machines import awaited_gpus as module
from sam_pipeline.pipeline.machines.awaited_gpus import awaited_gpus
from sam_pipeline.pipeline.machines.resources import Cluster


def cluster_of(num_gpus):
    return Cluster(4 * num_gpus, num_gpus, 4, 0, 0, 4, 4)


@pytest.fixture
def growing(monkeypatch):
    """A cluster that has another GPU every ten seconds, on a clock of its own; what is asked of its autoscaler."""
    clock, asked = SimpleNamespace(now=0.0), []

    def sleep(seconds):
        clock.now += seconds

    monkeypatch.setattr(module, "is_local", lambda: False)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock.now, sleep=sleep))
    monkeypatch.setattr(module, "current_cluster", lambda: cluster_of(int(clock.now // 10)))
    monkeypatch.setattr(module, "request_resources", lambda bundles: asked.append(bundles))
    return SimpleNamespace(clock=clock, asked=asked)


def test_gpus_are_asked_for_as_long_as_the_run_lasts_and_some_are_waited_for(growing, caplog):
    caplog.set_level(logging.INFO)
    with awaited_gpus(PoolConfig(gpus=4, min_gpus=3), cluster_of(0)) as cluster:
        assert cluster.num_gpus == 3
    # Again at each look, since Ray Data's own requests replace it.
    assert growing.asked[:2] == [[{"GPU": 1}] * 4] * 2
    assert growing.asked[-1] == []
    assert caplog.messages == ["0 of 4 GPUs are there; the run begins with 3, and waits 1800 s more at most"]


def test_a_run_begins_with_the_first_gpu(growing):
    with awaited_gpus(PoolConfig(gpus=4), cluster_of(0)) as cluster:
        assert cluster.num_gpus == 1


def test_what_does_not_come_is_not_waited_for_longer_than_said(growing, caplog):
    caplog.set_level(logging.INFO)
    waiting = awaited_gpus(PoolConfig(gpus=9, min_gpus=9, gpu_wait_s=65), cluster_of(0))
    with pytest.raises(ClusterError, match=r"6 of the 9 GPUs that the run needs, after 65 s .* --min-gpus"), waiting:
        pass
    assert growing.asked[-1] == []
    assert len(caplog.messages) == 3


def test_on_this_machine_no_more_will_come(growing, monkeypatch):
    monkeypatch.setattr(module, "is_local", lambda: True)
    waiting = awaited_gpus(PoolConfig(gpus=2), cluster_of(0))
    with pytest.raises(ClusterError, match="this machine has 0 of the 1 GPUs that the run needs"), waiting:
        pass
    assert growing.clock.now == 0


def test_without_gpus_that_are_wanted_nothing_is_asked_for(growing):
    cluster = cluster_of(2)
    with awaited_gpus(PoolConfig(), cluster) as found:
        assert found is cluster
    assert growing.asked == []


def test_after_a_signal_nothing_is_asked_for_either_and_a_cluster_that_is_gone_is_not_waited_for(growing, monkeypatch):
    waiting = awaited_gpus(PoolConfig(gpus=4), cluster_of(0))
    with pytest.raises(KeyboardInterrupt), waiting:
        raise KeyboardInterrupt
    assert growing.asked[-1] == []

    never = threading.Event()
    monkeypatch.setattr(module, "request_resources", lambda bundles: bundles or never.wait())
    start = time.monotonic()
    with awaited_gpus(PoolConfig(gpus=4), cluster_of(0)):
        pass
    assert time.monotonic() - start < 2
    never.set()
