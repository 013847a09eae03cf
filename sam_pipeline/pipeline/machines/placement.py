"""An encoder and its decoders on each GPU.

Left to itself, Ray fills one GPU before it begins another: two encoders would share the first one, two decoders the
second, and each pair would wait for the other. So each GPU has a placement group, which holds what the actors on it
reserve.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import ray
from ray.util.placement_group import (
    PlacementGroup,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from sam_pipeline.errors import RunFailedError
from sam_pipeline.pipeline.machines.resources import Resources
from sam_pipeline.process.stopping import is_stopping

_WAIT_S = 30.0

MakeArguments = Callable[[], dict[str, Any]]
"""Returns the further Ray arguments of one actor; Ray Data calls it once for each."""

logger = logging.getLogger(__name__)


class SharedGpus:
    """The GPUs that a pass holds, and which actors were put on which.

    Args:
        resources: the division of the pass.
    """

    def __init__(self, resources: Resources) -> None:
        self._bundle = resources.gpu_bundle if resources.shares_gpus else None
        self._groups: list[PlacementGroup] = []
        self._pools: list[_Placed] = []

    def __deepcopy__(self, _: object) -> SharedGpus:
        """The same: Ray Data copies its settings, callbacks and their arguments among them, and GPUs are held once."""
        return self

    def hold(self, number: int) -> None:
        """Hold this many GPUs. If more are held, give up first those whose placement group has no machine."""
        if self._bundle is None:
            return
        self._groups += [placement_group([self._bundle]) for _ in range(number - len(self._groups))]
        states = _states(self._groups)
        lost = [group for group in self._groups if states.get(group.id.hex()) != "CREATED"]
        for group in lost[: max(0, len(self._groups) - number)]:
            self._groups.remove(group)
            remove_placement_group(group)

    def wait_for(self, number: int) -> None:
        """Wait for so many GPUs, but not for long: a machine may be lost, and come back, while the others work.

        Raises:
            RunFailedError: none is free.
        """
        if self._bundle is None:
            return
        deadline = time.monotonic() + _WAIT_S
        while (num_free := self.num_free()) < number:
            if time.monotonic() > deadline or is_stopping():
                break
            time.sleep(0.1)
        if not num_free:
            raise RunFailedError(
                f"none of {number} GPUs is free after {_WAIT_S:g} s: stop what uses them, or wait until it ends; the "
                "same command resumes"
            )
        if num_free < number:
            logger.warning("%d of %d GPUs are free; the others are used as soon as they are", num_free, number)

    def num_free(self) -> int:
        """How many of the GPUs are ours by now."""
        return Counter(_states(self._groups).values())["CREATED"]

    def place_pool(self) -> MakeArguments | None:
        """What the actors of another pool are started with; None where no GPU is shared."""
        if self._bundle is None:
            return None
        pool = _Placed()
        self._pools.append(pool)
        return lambda: {"scheduling_strategy": PlacementGroupSchedulingStrategy(self._next(pool))}

    def match(self, actors_of_pools: Sequence[Sequence[Any]]) -> None:
        """Learn which actors there are, in the order in which they were made: the places of others are free again."""
        for pool, actors in zip(self._pools, actors_of_pools, strict=False):
            pool.match(actors)

    def release(self) -> None:
        """Give all GPUs back."""
        for group in self._groups:
            with suppress(ray.exceptions.RayError):
                remove_placement_group(group)

    def _next(self, pool: _Placed) -> PlacementGroup:
        """The GPU that has the fewest actors of a pool; of those one that is there already."""
        states = _states(self._groups)

        def rank(group: PlacementGroup) -> tuple[int, bool]:
            return pool.number_on(group), states.get(group.id.hex()) != "CREATED"

        group = min(self._groups, key=rank)
        pool.given.append(group)
        return group


class _Placed:
    """Where the actors of a pool are: Ray Data asks for a place before it makes an actor, and does not say which."""

    def __init__(self) -> None:
        self.given: list[PlacementGroup] = []
        """Places of actors that were made since the last look."""
        self._by_actor: dict[Any, PlacementGroup] = {}

    def number_on(self, group: PlacementGroup) -> int:
        """How many actors are on a GPU, or were sent there."""
        return sum(group.id == other.id for other in (*self._by_actor.values(), *self.given))

    def match(self, actors: Sequence[Any]) -> None:
        """Learn which actors there are."""
        given = iter(self.given)
        places = {actor: self._by_actor.get(actor) or next(given, None) for actor in actors}
        self._by_actor = {actor: group for actor, group in places.items() if group is not None}
        self.given = []


@contextmanager
def shared_gpus(resources: Resources, most_pairs: int | None = None) -> Iterator[SharedGpus]:
    """Hold GPUs for the time of the block, where encoders and decoders share them.

    Args:
        resources: the division of the pass.
        most_pairs: how many GPUs are wanted, if that is more than there are; Ray's autoscaler sees it.

    Raises:
        RunFailedError: no GPU is free.
    """
    gpus = SharedGpus(resources)
    try:
        gpus.hold(max(resources.encode_actors, most_pairs or 0))
        gpus.wait_for(resources.encode_actors)
        yield gpus
    finally:
        if not is_stopping():
            gpus.release()


def _states(groups: Sequence[PlacementGroup]) -> dict[str, str]:
    table = placement_group_table()
    return {key: table[key]["state"] for key in (group.id.hex() for group in groups) if key in table}
