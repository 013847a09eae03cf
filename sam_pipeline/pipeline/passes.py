"""Passes over what is left to do: broad ones while much is left, then one image at a time.

A pass accounts for an image by committing its row. What it could not account for — because a worker died of that
image, or of one beside it, more often than is tried again — is left for the next pass.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Generator
from contextlib import closing
from typing import Any

import numpy as np
import numpy.typing as npt
import ray

from sam_pipeline.errors import FencedError, OutputError, RunFailedError, StorageUnavailableError
from sam_pipeline.pipeline.isolation import annotate_isolated
from sam_pipeline.pipeline.job import Job
from sam_pipeline.pipeline.monitor import Counts, read_monitor, start_monitor
from sam_pipeline.pipeline.progress import Display
from sam_pipeline.pipeline.resources import Resources
from sam_pipeline.pipeline.run import configured_context, iterate_shards, shard_dataset
from sam_pipeline.storage.mask_table import MaskTable, Shard

_POLL_S = 1.0

# A reading task's ids: many for throughput, few enough that small runs keep every worker busy.
_MAX_CHUNK_ROWS = 256
_MIN_CHUNKS = 64

# Images that are done one at a time rather than in another pass: minutes of work, however slow the model.
_FEW = 64

_LOOK_INTERVAL_S = 10.0

MakeDisplay = Callable[[int, int], Display]
"""(planned images, images committed before) → a display."""

logger = logging.getLogger(__name__)


def annotate_pending(
    table: MaskTable,
    pending_ids: npt.NDArray[np.int64],
    job: Job,
    resources: Resources,
    num_images: int,
    make_display: MakeDisplay,
) -> None:
    """Annotate and commit until every pending image has a row.

    Args:
        table: the results, taken over by this start.
        pending_ids: (N,) int64, ascending.
        job: the run.
        resources: the division of the cluster.
        num_images: in the whole plan.
        make_display: what to show progress on.

    Raises:
        SamPipelineError: of storage or workers, once what was written is committed.
    """
    monitor = start_monitor()
    num_before = num_images - len(pending_ids)
    with make_display(num_images, num_before) as display:
        committer = _Committer(table, job.config.commit_interval_s, num_before)
        chunk_rows = min(_MAX_CHUNK_ROWS, math.ceil(len(pending_ids) / _MIN_CHUNKS))
        while True:
            with ray.data.DataContext.current(configured_context(job.stall_timeout_s)):
                dataset = shard_dataset(pending_ids, chunk_rows, job, resources, monitor)
            _commit_all(iterate_shards(dataset, _POLL_S), committer, monitor, display)
            left = np.flatnonzero(~table.committed_ids(num_images))
            if not len(left):
                return
            if len(left) <= _FEW:
                break
            if len(left) == len(pending_ids):
                raise RunFailedError(_no_progress(len(left), monitor))
            # One image a task, so that the next pass loses fewer beside those that crash it.
            pending_ids, chunk_rows = left, 1
        logger.info("%d images crashed their workers or were beside one that did; each is tried alone", len(left))
        _commit_all(annotate_isolated(left.tolist(), job, resources, monitor), committer, monitor, display)


def _no_progress(num_images: int, monitor: Any) -> str:
    word = read_monitor(monitor)
    reason = "their workers died" if word is None or word.last_error is None else word.last_error
    return f"none of {num_images} images could be annotated ({reason}); the same command resumes"


def _commit_all(written: Generator[list[Shard]], committer: _Committer, monitor: Any, display: Display) -> None:
    counts = Counts()
    try:
        with closing(written):
            for shards in written:
                committer.add(shards)
                if (word := read_monitor(monitor)) is not None:
                    if word.failure is not None:
                        raise word.failure
                    counts = word.counts
                display.update(counts, committer.num_committed)
    except (FencedError, OutputError, StorageUnavailableError):
        raise  # a commit may have been it, which must not be tried from here
    except BaseException:
        committer.flush()  # what was written must not be done again
        raise
    committer.flush()
    display.update(counts, committer.num_committed)


class _Committer:
    """Commits shards several at a time: at once when the last commit is an interval ago, else with the next ones.

    While there is nothing to commit, it looks whether another start took over: a commit would tell, but the first one
    of a slow model takes minutes.
    """

    def __init__(self, table: MaskTable, interval_s: float, num_committed: int) -> None:
        self._table, self._interval_s = table, interval_s
        self._waiting: list[Shard] = []
        self._last = self._last_look = time.monotonic() - interval_s  # the first shard does not wait
        self.num_committed = num_committed

    def add(self, shards: list[Shard]) -> None:
        self._waiting += shards
        now = time.monotonic()
        if self._waiting and now - self._last >= self._interval_s:
            self.flush()
        elif now - max(self._last, self._last_look) >= _LOOK_INTERVAL_S:
            self._table.check_fence()
            self._last_look = now

    def flush(self) -> None:
        if self._waiting:
            self._table.commit(self._waiting)
            self.num_committed += sum(shard.file.num_rows for shard in self._waiting)
            self._waiting = []
            self._last = time.monotonic()
