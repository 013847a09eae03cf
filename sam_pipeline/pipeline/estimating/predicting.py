"""From the rates of a sample to time and money, on the machines that there are and on others.

The time of a run is that of its start, then its images, then its end:

- Start: what the sample took for it. Ray and its actors start, weights are loaded, the first images go through.
- Images: those that are left, at the rate of the sample (see rates.py).
- End: shards are merged, each byte read and written once more, two files at a time (in rounds, if shards are tiny). So
  it takes about as long as one worker took to write them. A Ray that was started for the run is stopped.

With one more node the rate grows as the hardware of the bottleneck does, CPUs or GPUs. Each stage limits it: what a
stage would do by itself grows as its workers and their threads do, by the division of such a cluster. Storage and
network are taken to keep up. So is the storage of the output in any case: shards of the sample do not go there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from sam_pipeline.config import PriceConfig
from sam_pipeline.pipeline.estimating.figures import Cost, Requests, RunFigures
from sam_pipeline.pipeline.estimating.rates import ON_GPUS, STAGES, Rates, num_workers
from sam_pipeline.pipeline.estimating.requests import Work, requests_of
from sam_pipeline.pipeline.machines.resources import Cluster, Resources, needed_gpus
from sam_pipeline.pipeline.monitor import StageName


@dataclass(frozen=True)
class Measured:
    """What is known of a run once its sample is over."""

    rates: Rates
    work: Work
    start_s: float
    """Until its actors start."""
    stop_s: float
    """For stopping Ray."""
    prices: PriceConfig
    cluster: Cluster
    """The one that the sample had."""
    resources: Resources
    """Its division."""

    def time_s(self, images_per_s: float) -> float:
        """What the run takes at a rate."""
        num_images = self.work.num_images
        end_s = num_images * self.rates.stages["write"].busy_s_per_image + self.stop_s
        return self.start_s + self.rates.first_s + self._num_after_first / images_per_s + end_s

    def time_spread(self, time_s: float, num_sampled: int) -> float | None:
        """See Estimate.time_spread. What was in the sample is known, and so is the time of start and end."""
        if self.rates.spread is None:
            return None
        share_of_others = max(0.0, 1 - num_sampled / self.work.num_images)
        share_of_images = self._num_after_first / self.rates.images_per_s / time_s
        return self.rates.spread * share_of_images * math.sqrt(share_of_others)

    @property
    def _num_after_first(self) -> float:
        return max(0.0, self.work.num_images - self.rates.num_at_first)


def larger_by_a_node(cluster: Cluster) -> Cluster:
    """A cluster with one more machine that is like the average of the others."""
    num_nodes = cluster.num_nodes + 1
    growth = num_nodes / cluster.num_nodes
    return replace(cluster, num_nodes=num_nodes, num_cpus=growth * cluster.num_cpus, num_gpus=growth * cluster.num_gpus)


def on_machines(measured: Measured, cluster: Cluster, division: Resources) -> RunFigures:
    """What a run takes.

    Args:
        measured: by a sample of it.
        cluster: the machines.
        division: of these machines.
    """
    images_per_s = _images_per_s(measured, cluster, division)
    time_s = measured.time_s(images_per_s)
    gpus = needed_gpus(division)
    node_hours = cluster.num_nodes * time_s / 3600
    requests = requests_of(measured.work, time_s)
    return RunFigures(
        num_nodes=cluster.num_nodes,
        num_gpus=gpus,
        images_per_s=images_per_s,
        time_s=time_s,
        node_hours=node_hours,
        gpu_hours=gpus * time_s / 3600,
        requests=requests,
        cost=_cost(measured.prices, node_hours, requests, measured.work.bytes_out),
    )


def _images_per_s(measured: Measured, cluster: Cluster, division: Resources) -> float:
    rates, before = measured.rates, measured.resources
    if division.device == "cuda" and rates.bottleneck in ON_GPUS:
        growth = needed_gpus(division) / needed_gpus(before)
    else:
        growth = cluster.num_cpus / measured.cluster.num_cpus
    limits = (rates.undisturbed[name] * _capacity(name, division) / _capacity(name, before) for name in STAGES)
    return max(rates.images_per_s, min(rates.images_per_s * growth, *limits))


def _capacity(stage: StageName, division: Resources) -> int:
    return num_workers(stage, division) * (division.threads if stage in ON_GPUS else 1)


def _cost(prices: PriceConfig, node_hours: float, requests: Requests, bytes_out: int | None) -> Cost:
    price_gb = prices.price_gb_month
    priced = ((prices.price_put_1000, requests.num_put), (prices.price_get_1000, requests.num_get))
    known = [price * number / 1000 for price, number in priced if price is not None]
    return Cost(
        nodes=None if prices.price_node_hour is None else prices.price_node_hour * node_hours,
        requests=sum(known) if known else None,
        storage_per_month=None if price_gb is None or bytes_out is None else price_gb * bytes_out / 1e9,
    )
