"""An encoder and its decoders on each GPU.

Left to itself, Ray fills one GPU before it begins another: two encoders would share the first one, two decoders the
second, and each pair would wait for the other. So each GPU has a placement group, which holds what the actors on it
reserve.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from sam_pipeline.errors import ClusterError
from sam_pipeline.pipeline.resources import Resources
from sam_pipeline.stopping import is_stopping

_WAIT_S = 30

MakeArguments = Callable[[], dict[str, Any]]
"""What an actor is started with, beside what all of its pool have; asked for each by itself."""

logger = logging.getLogger(__name__)


@contextmanager
def shared_gpus(resources: Resources) -> Iterator[Callable[[], MakeArguments | None]]:
    """Hold GPUs for the time of the block.

    Yields:
        Makes what places the actors of a pool, one after another; of None where they do not share GPUs.

    Raises:
        ClusterError: no GPU is free.
    """
    if not resources.shares_gpus:
        yield lambda: None
        return
    decoders_a_gpu = resources.decode_actors // resources.encode_actors
    bundle = {
        "GPU": resources.encode_gpus + decoders_a_gpu * resources.decode_gpus,
        "CPU": resources.encode_cpus + decoders_a_gpu * resources.decode_cpus,
    }
    groups = [placement_group([bundle]) for _ in range(resources.encode_actors)]
    try:
        _wait_for_some(groups)
        yield partial(_in_turn, groups)
    finally:
        if not is_stopping():
            for group in groups:
                with suppress(ray.exceptions.RayError):
                    remove_placement_group(group)


def _wait_for_some(groups: list[PlacementGroup]) -> None:
    """Wait for all, but not for long: a machine may be lost, and come back, while the others work."""
    deadline = time.monotonic() + _WAIT_S
    num_free = sum(group.wait(max(0.1, deadline - time.monotonic())) for group in groups)
    if not num_free:
        raise ClusterError(f"none of {len(groups)} GPUs is free: stop what uses them, or wait until it ends")
    if num_free < len(groups):
        logger.warning("%d of %d GPUs are free; the others are used as soon as they are", num_free, len(groups))


def _in_turn(groups: list[PlacementGroup]) -> MakeArguments:
    following = itertools.cycle(groups)
    return lambda: {"scheduling_strategy": PlacementGroupSchedulingStrategy(next(following))}
