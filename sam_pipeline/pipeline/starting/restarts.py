"""Trying again after transient errors, and making errors of Ray our own."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import ray
import tenacity

from sam_pipeline.errors import ClusterError, RunFailedError
from sam_pipeline.process.supervised import num_restarts, tell_restart
from sam_pipeline.safety.clean_text import one_line

logger = logging.getLogger(__name__)


@contextmanager
def ray_errors() -> Iterator[None]:
    """Raise errors of Ray outside a pass, most often a lost machine, as RunFailedError: a new start may help."""
    try:
        yield
    except ray.exceptions.RayError as error:
        # Of an error in an actor Ray's own text begins with the actor and not with what happened.
        cause = getattr(error, "cause", None) or error
        raise RunFailedError(
            f"Ray failed ({type(cause).__name__}: {one_line(cause)}); the same command resumes"
        ) from error


class _Restarts:
    """How often a run has started again: in the processes before this one, and in all that this one does.

    Args:
        max_restarts: how often it may.
    """

    def __init__(self, max_restarts: int) -> None:
        self._max, self._num = max_restarts, num_restarts()

    def are_used_up(self, _: tenacity.RetryCallState) -> bool:
        """Whether it may not start again."""
        return self._num >= self._max

    def count(self, state: tenacity.RetryCallState) -> None:
        """Count a restart, log it and report it to the parent of this process."""
        assert state.outcome is not None, "called after an attempt"
        self._num += 1
        logger.warning("start %d failed: %s; starting again", self._num, state.outcome.exception())
        tell_restart()


def restarting(max_restarts: int) -> tenacity.Retrying:
    """Call parts of a run again after transient errors. All calls and all processes share max_restarts."""
    restarts = _Restarts(max_restarts)
    return tenacity.Retrying(
        stop=restarts.are_used_up,
        retry=_is_transient,
        wait=tenacity.wait_random_exponential(multiplier=2, max=60),
        before_sleep=restarts.count,
        reraise=True,
    )


def _is_transient(state: tenacity.RetryCallState) -> bool:
    assert state.outcome is not None, "called after an attempt"
    error = state.outcome.exception()
    # A cluster that was large enough for the first attempt has lost machines since, and may get them back.
    is_restart = state.attempt_number > 1 or num_restarts() > 0
    return isinstance(error, RunFailedError) or (isinstance(error, ClusterError) and is_restart)
