"""The stages of a running pass as Ray Data 2.60 holds them: it has no public way to change their sizes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ray.data._internal.actor_autoscaler import ActorPoolScalingRequest
from ray.data._internal.execution.backpressure_policy.concurrency_cap_backpressure_policy import (
    ConcurrencyCapBackpressurePolicy,
)
from ray.data._internal.execution.operators.actor_pool_map_operator import _ACTOR_STATE_DEAD, _ACTOR_STATE_RESTARTING
from ray.data._internal.execution.operators.map_operator import MapOperator
from ray.data._internal.execution.operators.task_pool_map_operator import TaskPoolMapOperator
from ray.data._internal.execution.streaming_executor import StreamingExecutor

from sam_pipeline.pipeline.machines.resources import Resources


def is_restarting(actor: Any) -> bool:
    """Whether an actor has lost its process, and most often its machine."""
    return bool(actor._get_local_state() == _ACTOR_STATE_RESTARTING)


class Stages:
    """Reading, encoding, decoding and writing of one execution.

    Args:
        executor: of the pass.
    """

    def __init__(self, executor: StreamingExecutor) -> None:
        self._executor = executor
        stages = [stage for stage in executor._topology or () if isinstance(stage, MapOperator)]
        self._task_stages = [stage for stage in stages if isinstance(stage, TaskPoolMapOperator)]
        self.pools: list[Any] = [pool for stage in stages for pool in stage.get_autoscaling_actor_pools()]
        """Of encoders, then of decoders."""

    def actors(self, pool: Any) -> list[Any]:
        """All actors of a pool, in the order in which they were made."""
        return list(pool._actor_to_logical_id)

    def surplus(self, resources: Resources) -> list[Any]:
        """Restarting actors by which the pools exceed a division."""
        numbers = (resources.encode_actors, resources.decode_actors)
        return [
            actor
            for pool, number in zip(self.pools, numbers, strict=False)  # no pools before the start
            for actor in list(filter(is_restarting, self.actors(pool)))[: max(0, len(self.actors(pool)) - number)]
        ]

    def forget_dead(self) -> None:
        """Drop dead actors from their pools once no task is theirs, so that Ray Data makes others in their place.

        It does so by itself only with actors that die as they start for the first time.
        """
        for pool in self.pools:
            for actor, state in list(pool._running_actors.items()):
                if not state.num_tasks_in_flight and actor._get_local_state() == _ACTOR_STATE_DEAD:
                    pool._release_running_actor(actor)

    def resize(self, resources: Resources) -> None:
        """Give the stages other numbers of actors and tasks. Actors that are too many stay, unless they are killed."""
        for pool, number in zip(self.pools, (resources.encode_actors, resources.decode_actors), strict=True):
            present = pool.current_size()
            # Above its maximum Ray Data would end idle actors, and not those that are lost.
            pool._config = replace(pool._config, min_size=number, initial_size=number, max_size=max(number, present))
            if number > present:
                pool.scale(ActorPoolScalingRequest.upscale(delta=number - present))
        for stage, number in zip(self._task_stages, (resources.read_tasks, resources.write_tasks), strict=True):
            stage._max_concurrency = number
            for policy in self._executor._backpressure_policies:
                if isinstance(policy, ConcurrencyCapBackpressurePolicy):
                    policy._concurrency_caps[stage] = number
