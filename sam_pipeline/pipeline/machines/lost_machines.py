"""What Ray Data leaves undone when machines are lost in the middle of a pass."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.data._internal.execution.operators.map_operator import MapOperator
from ray.data._internal.execution.streaming_executor import StreamingExecutor

from sam_pipeline.errors import ClusterError, RunFailedError
from sam_pipeline.pipeline.machines.cluster import current_cluster
from sam_pipeline.pipeline.machines.resources import Cluster, Resources, needed_cpus

# An actor that starts again may take so long to load its model, and a machine to come back.
_LEAST_LOST_S = 60
_LOOK_INTERVAL_S = 5.0


class TooFewMachinesError(RunFailedError):
    """A pass reserves more than the cluster still has.

    Args:
        message: what it reserves, and what there is.
        resources: a division that fits what is left.
    """

    def __init__(self, message: str, resources: Resources) -> None:
        super().__init__(message)
        self.resources = resources


class LostMachines(ExecutionCallback):
    """Gives up actors for which there is no machine any more, and passes for which there are too few.

    Args:
        resources: the division that the pass was started with.
        divide_again: divides what the cluster has now; raises ClusterError if nothing fits.
    """

    def __init__(self, resources: Resources, divide_again: Callable[[Cluster], Resources]) -> None:
        self._resources, self._divide_again = resources, divide_again
        self._restarting_since: dict[Any, float] = {}
        self._last_look = self._enough_until = time.monotonic()

    def on_execution_step(self, executor: StreamingExecutor) -> None:
        """Called by Ray Data at each turn of its loop.

        Raises:
            TooFewMachinesError: the pass can no longer work as it was divided.
        """
        now = time.monotonic()
        stages = [stage for stage in executor._topology or () if isinstance(stage, MapOperator)]
        stall_timeout_s = executor._data_context.execution_no_progress_timeout_s
        self._give_up_actors(stages, now, max(_LEAST_LOST_S, stall_timeout_s / 2))
        if now - self._last_look >= _LOOK_INTERVAL_S:
            self._last_look = now
            self._give_up_pass(now)

    def _give_up_actors(self, stages: Sequence[MapOperator], now: float, limit_s: float) -> None:
        """End actors that have had no machine for limit_s seconds: the pass would wait for their work."""
        before = self._restarting_since
        pools: list[Any] = [pool for stage in stages for pool in stage.get_autoscaling_actor_pools()]
        actors = [actor for pool in pools for actor, state in pool._running_actors.items() if state.is_restarting]
        self._restarting_since = {actor: before.get(actor, now) for actor in actors}
        for actor, since in self._restarting_since.items():
            if now - since > limit_s:
                ray.kill(actor)

    def _give_up_pass(self, now: float) -> None:
        """End a pass whose actors have left no CPUs for its tasks, unless the machines come back.

        Where no division fits, the machines are waited for.
        """
        cluster = current_cluster()
        needed = needed_cpus(self._resources)
        if needed <= cluster.num_cpus + 1e-9:
            self._enough_until = now
        elif now - self._enough_until > _LEAST_LOST_S:
            try:
                resources = self._divide_again(cluster)
            except ClusterError:
                return
            raise TooFewMachinesError(
                f"machines were lost: {needed:g} CPUs are reserved, the cluster has {cluster.num_cpus:g} left",
                resources,
            )
