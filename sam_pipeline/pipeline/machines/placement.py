"""An encoder and its decoders on each GPU.

Left to itself, Ray fills one GPU before it begins another: two encoders would share the first one, two decoders the
second, and each pair would wait for the other. So each GPU has a placement group, which holds what the actors on it
reserve.
"""

from __future__ import annotations

import itertools
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
"""What an actor is started with, beside what all of its pool have; asked for each by itself."""

logger = logging.getLogger(__name__)


@contextmanager
def shared_gpus(resources: Resources) -> Iterator[Callable[[], MakeArguments | None]]:
    """Hold GPUs for the time of the block, where encoders and decoders share them.

    Yields:
        A function to be called for each pool: it gives Ray Data's ray_remote_args_fn, or None where no GPU is shared.

    Raises:
        RunFailedError: no GPU is free.
    """
    if not resources.shares_gpus:
        yield lambda: None
        return
    groups: list[PlacementGroup] = []
    try:
        groups += (placement_group([resources.gpu_bundle]) for _ in range(resources.encode_actors))
        _wait_for_some(groups)
        yield lambda: _in_turn(groups)
    finally:
        if not is_stopping():
            for group in groups:
                with suppress(ray.exceptions.RayError):
                    remove_placement_group(group)


def _wait_for_some(groups: Sequence[PlacementGroup]) -> None:
    """Wait for all, but not for long: a machine may be lost, and come back, while the others work."""
    deadline = time.monotonic() + _WAIT_S
    while (num_free := Counter(_states(groups).values())["CREATED"]) < len(groups):
        if time.monotonic() > deadline or is_stopping():
            break
        time.sleep(0.1)
    if not num_free:
        raise RunFailedError(
            f"none of {len(groups)} GPUs is free after {_WAIT_S:g} s: stop what uses them, or wait until it ends; the "
            "same command resumes"
        )
    if num_free < len(groups):
        logger.warning("%d of %d GPUs are free; the others are used as soon as they are", num_free, len(groups))


def _states(groups: Sequence[PlacementGroup]) -> dict[str, str]:
    table = placement_group_table()
    return {key: table[key]["state"] for key in (group.id.hex() for group in groups) if key in table}


def _in_turn(groups: Sequence[PlacementGroup]) -> MakeArguments:
    following = itertools.cycle(groups)
    return lambda: {"scheduling_strategy": PlacementGroupSchedulingStrategy(next(following))}
