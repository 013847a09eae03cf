"""From rates to time and money, here and on one more machine."""

import dataclasses

import pytest

from sam_pipeline.config import PoolConfig, PriceConfig
from sam_pipeline.pipeline.estimating.figures import StageFigures
from sam_pipeline.pipeline.estimating.predicting import Measured, larger_by_a_node, on_machines
from sam_pipeline.pipeline.estimating.rates import Rates
from sam_pipeline.pipeline.estimating.requests import Work
from sam_pipeline.pipeline.machines.resources import Cluster, divide
from sam_pipeline.storage.inputs.source_object import SourceObject

PRICES = PriceConfig(price_node_hour=3.6, price_put_1000=5, price_get_1000=0.4, price_gb_month=20)


def machines(num_cpus, num_gpus=0, num_nodes=1):
    """Machines that are alike."""
    cpus_a_node, cpus_a_gpu = num_cpus / num_nodes, num_cpus / (num_gpus or 1)
    return Cluster(num_cpus, num_gpus, cpus_a_node, 2**34, 2**34, cpus_a_gpu, cpus_a_node, num_nodes=num_nodes)


TWO_CPUS, DEFAULTS = machines(2), PoolConfig()


def measured(cluster=TWO_CPUS, pools=DEFAULTS, prices=PRICES, **changes):
    """A sample that did 2 images/s on a cluster, with rates of single stages changed."""
    rates = {"read": 40.0, "encode": 6.0, "decode": 2.5, "write": 100.0, **changes}
    stages = {name: StageFigures(1, 1 / rate, 1 / rate, rate) for name, rate in rates.items()}
    image = SourceObject("s3://bucket/0.jpg", 1000, None)
    work = Work("s3://bucket/run", 1000, [image], 16, 4, 2 * 10**9, has_prompts=False, commit_interval_s=10)
    found = Rates(stages, rates, "decode", 2.0, 12.0, 4.0, 0.1)
    return Measured(found, work, 8.0, 2.0, prices, cluster, divide(pools, "auto", "vit_t", cluster))


def predicted(known, cluster, pools=DEFAULTS):
    return on_machines(known, cluster, divide(pools, "auto", "vit_t", cluster))


def test_time_is_that_of_start_images_and_end():
    run = predicted(measured(), machines(2))
    assert run.time_s == pytest.approx(8 + 12 + (1000 - 4) / 2 + 1000 / 100 + 2)
    assert (run.num_nodes, run.num_gpus, run.gpu_hours) == (1, 0, 0)
    assert run.node_hours == pytest.approx(run.time_s / 3600)
    assert run.cost.nodes == pytest.approx(3.6 * run.node_hours)
    assert run.cost.requests == pytest.approx((5 * run.requests.num_put + 0.4 * run.requests.num_get) / 1000)
    assert run.cost.storage_per_month == pytest.approx(40)


def test_what_has_no_price_costs_nothing_that_is_known():
    cost = predicted(measured(prices=PriceConfig(price_put_1000=5)), machines(2)).cost
    assert (cost.nodes, cost.storage_per_month) == (None, None)
    assert cost.requests > 0
    assert predicted(measured(prices=PriceConfig()), machines(2)).cost.requests is None


def test_what_is_not_known_costs_nothing_that_is_known():
    known = measured()
    known = dataclasses.replace(known, work=dataclasses.replace(known.work, bytes_out=None))
    run = predicted(known, machines(2))
    assert run.cost.storage_per_month is None
    assert run.requests.num_get > 1000


def test_one_more_node_of_cpus_doubles_the_rate_of_one():
    more = larger_by_a_node(machines(2))
    assert (more.num_nodes, more.num_cpus) == (2, 4)
    run = predicted(measured(), more)
    assert run.images_per_s == pytest.approx(4)
    assert run.node_hours == pytest.approx(2 * run.time_s / 3600)
    # There is one encoder on two nodes, too. What helps is that a decoder no longer shares its cores.
    assert predicted(measured(encode=2.2), more).images_per_s == pytest.approx(2.2)


def test_one_more_node_of_gpus_adds_its_gpus_and_another_stage_may_become_the_limit():
    cluster = machines(32, num_gpus=2, num_nodes=2)
    more = larger_by_a_node(cluster)
    assert (more.num_nodes, more.num_cpus, more.num_gpus) == (3, 48, 3)
    assert predicted(measured(cluster), more).images_per_s == pytest.approx(3)
    assert predicted(measured(cluster), more).num_gpus == 3
    assert predicted(measured(cluster, encode=1.8), more).images_per_s == pytest.approx(1.8 * 1.5)


def test_pools_that_are_given_do_not_grow_with_the_cluster():
    cluster = machines(32, num_gpus=2, num_nodes=2)
    pools = PoolConfig(encode_actors=2, decode_actors=2)
    run = predicted(measured(cluster, pools), larger_by_a_node(cluster), pools)
    assert run.images_per_s == pytest.approx(2)


def test_the_spread_is_of_the_images_that_were_not_in_the_sample():
    known = measured()
    assert known.time_spread(1000, 0) == pytest.approx(0.1 * 498 / 1000)
    assert known.time_spread(1000, 750) == pytest.approx(0.1 * 498 / 1000 / 2)
    assert known.time_spread(1000, 1000) == 0
    unknown = dataclasses.replace(known, rates=dataclasses.replace(known.rates, spread=None))
    assert unknown.time_spread(1000, 0) is None
