"""What Ray Data leaves undone when machines join or leave in the middle of a pass.

On GPUs that encoders and decoders share, a pass goes on with more or fewer such pairs. Elsewhere what an actor reserves
follows from the whole cluster, so the pass ends and the cluster is divided anew: that costs the seconds in which actors
start, and the images that were under way.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Set
from itertools import chain
from typing import Any, Literal

import ray
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.data._internal.execution.streaming_executor import StreamingExecutor

from sam_pipeline.config import PoolConfig
from sam_pipeline.errors import ClusterError, RunFailedError
from sam_pipeline.pipeline.machines.cluster import current_cluster
from sam_pipeline.pipeline.machines.placement import SharedGpus
from sam_pipeline.pipeline.machines.resources import (
    Cluster,
    Resources,
    actor_cpus,
    fits,
    needed_cpus,
    needed_gpus,
    num_pairs_that_fit,
    with_pairs,
)
from sam_pipeline.pipeline.machines.stages_in_ray import Stages, is_restarting

# An actor that starts again may take so long to load its model, and a machine to come back.
_LEAST_LOST_S = 60
# Machines that join come in groups.
_SETTLE_S = 10
_LOOK_INTERVAL_S = 5.0
# A pass does not end for less than that.
_LEAST_GROWTH = 1.1

logger = logging.getLogger(__name__)


class MachinesChangedError(RunFailedError):
    """A pass is divided in a way that no longer suits the cluster.

    Args:
        message: what it reserves, and what there is.
        resources: a division that fits what there is now.
    """

    def __init__(self, message: str, resources: Resources) -> None:
        super().__init__(message)
        self.resources = resources


class MachineChanges(ExecutionCallback):
    """Has a pass use machines that join, and give up actors for which there is no machine any more.

    Args:
        resources: the division that the pass was started with.
        gpus: those that its encoders and decoders share.
        pools: the user's settings.
        divide_again: divides what the cluster has now; raises ClusterError if nothing fits.
    """

    def __init__(
        self,
        resources: Resources,
        gpus: SharedGpus,
        pools: PoolConfig,
        divide_again: Callable[[Cluster], Resources],
    ) -> None:
        self._resources, self._gpus, self._divide_again = resources, gpus, divide_again
        decoders = resources.decode_actors // resources.encode_actors
        self._most_pairs = (
            min(pools.encode_actors or math.inf, (pools.decode_actors or math.inf) // decoders, pools.gpus or math.inf)
            if resources.shares_gpus
            else math.inf
        )
        self._wanted = pools.gpus or 0
        self._has_shrunk = False
        self._restarting_since: dict[Any, float] = {}
        self._given_up: set[Any] = set()
        self._actors: set[Any] = set()
        self._last_look = self._since = time.monotonic()
        self._change: Literal["fewer", "more"] | None = None

    def on_execution_step(self, executor: StreamingExecutor) -> None:
        """Called by Ray Data at each turn of its loop.

        Raises:
            MachinesChangedError: the pass is to be divided anew.
        """
        now = time.monotonic()
        stages = Stages(executor)
        actors_of_pools = [stages.actors(pool) for pool in stages.pools]
        self._gpus.match(actors_of_pools)
        self._actors.update(*actors_of_pools)
        if now - self._last_look >= _LOOK_INTERVAL_S:
            self._last_look = now
            stages.forget_dead()
            stall_timeout_s = executor._data_context.execution_no_progress_timeout_s
            # Once the pass does without lost machines, nobody waits for them. An actor of one may be all that is left
            # of its pool: Ray Data may have dropped the others as idle.
            limit_s = _LEAST_LOST_S if self._has_shrunk else max(_LEAST_LOST_S, stall_timeout_s / 2)
            self._give_up_lost({*chain(*actors_of_pools)}, now, limit_s)
            self._look(stages, current_cluster(), now)

    def after_execution_succeeds(self, executor: StreamingExecutor) -> None:
        """Called by Ray Data. Drop our references to the actors, so that Ray ends them."""
        self._actors.clear()

    def after_execution_fails(self, executor: StreamingExecutor, error: Exception) -> None:
        """Called by Ray Data. Kill the actors: the error refers to them, so they would live on and keep their CPUs."""
        for actor in self._actors:
            ray.kill(actor)
        self._actors.clear()

    def _give_up_lost(self, in_pools: Set[Any], now: float, limit_s: float) -> None:
        """End actors that have had no machine for limit_s seconds: the pass would wait for their work.

        Near the end Ray Data drops actors that are idle. If such an actor is lost with what it has encoded, Ray starts
        it again to encode that once more, but no pool waits for its machine.
        """
        before = self._restarting_since
        self._restarting_since = {actor: before.get(actor, now) for actor in self._actors if is_restarting(actor)}
        self._give_up(
            actor
            for actor, since in self._restarting_since.items()
            if now - since > (limit_s if actor in in_pools else _LEAST_LOST_S)
        )

    def _give_up(self, actors: Iterable[Any]) -> None:
        for actor in {*actors} - self._given_up:
            ray.kill(actor)
            self._given_up.add(actor)

    def _look(self, stages: Stages, cluster: Cluster, now: float) -> None:
        """Compare what the pass reserves with what there is, and act once that has lasted for a while."""
        change = self._change_to(cluster)
        if change != self._change:
            self._change, self._since = change, now
        lasted_s = now - self._since
        if (change == "fewer" and lasted_s > _LEAST_LOST_S) or (change == "more" and lasted_s >= _SETTLE_S):
            self._adapt(stages, cluster)
        self._give_up(stages.surplus(self._resources))

    def _change_to(self, cluster: Cluster) -> Literal["fewer", "more"] | None:
        r = self._resources
        if not fits(r, cluster):
            return "fewer"
        if r.shares_gpus:
            of_now = with_pairs(r, max(r.encode_actors, self._num_pairs(cluster)), cluster.num_cpus)
            reads_more = of_now.read_tasks >= _LEAST_GROWTH * r.read_tasks
            return "more" if of_now.encode_actors > r.encode_actors or reads_more else None
        try:
            divided = self._divide_again(cluster)
        except ClusterError:
            return None
        return "more" if actor_cpus(divided) >= _LEAST_GROWTH * actor_cpus(r) else None

    def _num_pairs(self, cluster: Cluster) -> int:
        return int(min(self._most_pairs, num_pairs_that_fit(self._resources, cluster)))

    def _is_of_such_machines(self, cluster: Cluster) -> bool:
        """Whether pairs of the present size suit the cluster.

        They do not if a new machine has fewer CPUs for a GPU, nor if only machines without GPUs left.
        """
        r = self._resources
        if not r.shares_gpus or r.gpu_bundle["CPU"] > cluster.least_cpus_a_gpu + 1e-9:
            return False
        return self._change == "more" or needed_gpus(r) > cluster.num_gpus

    def _adapt(self, stages: Stages, cluster: Cluster) -> None:
        """Change the numbers of pairs and of tasks, or have the pass divided anew.

        Where no division fits, machines are waited for.
        """
        r = self._resources
        num_pairs = self._num_pairs(cluster)
        if self._change == "more":
            num_pairs = max(r.encode_actors, num_pairs)  # the user may have put several pairs on a GPU
        if num_pairs and self._is_of_such_machines(cluster):
            self._has_shrunk |= num_pairs < r.encode_actors
            self._resources, self._change = with_pairs(r, num_pairs, cluster.num_cpus), None
            if num_pairs == r.encode_actors:
                logger.info("%d tasks read from now on, %d before", self._resources.read_tasks, r.read_tasks)
            else:
                logger.info("%d GPUs are used from now on, %d before", num_pairs, r.encode_actors)
            self._give_up(stages.surplus(self._resources))
            self._gpus.hold(max(num_pairs, self._wanted))  # the autoscaler goes on to see what is not there
            stages.resize(self._resources)
            return
        try:
            divided = self._divide_again(cluster)
        except ClusterError:
            return
        raise MachinesChangedError(
            f"machines {'were lost' if self._change == 'fewer' else 'joined'}: {needed_cpus(r):g} CPUs and "
            f"{needed_gpus(r):g} GPUs are reserved, the cluster has {cluster.num_cpus:g} and {cluster.num_gpus:g}",
            divided,
        )
