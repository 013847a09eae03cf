"""Passes over what is left to do: broad ones while much is left, then one image at a time.

A pass accounts for an image by committing its row. What it could not account for — because a worker died of that
image, or of one beside it, more often than is tried again — is left for the next pass.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Generator
from contextlib import closing, suppress
from functools import partial
from itertools import takewhile
from typing import Any

import numpy as np
import numpy.typing as npt
import ray

from sam_pipeline.errors import SamPipelineError
from sam_pipeline.pipeline.job import Job
from sam_pipeline.pipeline.machines.cluster import check_cluster
from sam_pipeline.pipeline.machines.machine_changes import MachineChanges, MachinesChangedError
from sam_pipeline.pipeline.machines.placement import shared_gpus
from sam_pipeline.pipeline.machines.resources import Resources, divide_again
from sam_pipeline.pipeline.metrics import CommitMetrics, CommitState
from sam_pipeline.pipeline.monitor import Counts, read_monitor, start_monitor
from sam_pipeline.pipeline.progress import Display
from sam_pipeline.pipeline.run import (
    configured_context,
    images_per_block,
    iterate_shards,
    shard_dataset,
    whole_blocks,
)
from sam_pipeline.pipeline.workers.isolation import annotate_isolated
from sam_pipeline.process.stopping import is_stopping, shielded
from sam_pipeline.storage.tables.results import MaskTable, Shard

_POLL_S = 1.0

# A reading task's ids: many for throughput, few enough that small runs keep every worker busy.
_MAX_CHUNK_ROWS = 256
_MIN_CHUNKS = 64
# Before it starts the first task, Ray Data takes half a millisecond and 5 KB for each: a minute and half a gigabyte. So
# a pass does at most so many; 25 million images are hours of work, beside which the start of actors is nothing.
_MAX_TASKS = 100_000
# A reading task holds the prompts of its images; those with a mask take 256 KiB each.
_MAX_CHUNK_MASKS = 1024

# Images that are done one at a time rather than in another pass: minutes of work, however slow the model.
_FEW = 64

# Of two starts at once the second is found soon; one in the middle of a run may wait.
_FIRST_LOOK_S = 1.0
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
    done = np.ones(num_images, bool)
    done[pending_ids] = False
    with (
        CommitMetrics(job.run_id, job.output) as metrics,
        make_display(num_images, int(done.sum())) as display,
    ):
        committer = _Committer(table, job.config.commit_interval_s, done, metrics)
        chunk_rows = rows_per_chunk(len(pending_ids), job, resources)
        division = partial(divide_again, job.config.pools, job.device, job.config.model.model_type)
        while len(pending_ids):
            pass_ids, later_ids = np.split(pending_ids, [_MAX_TASKS * chunk_rows])
            try:
                with shared_gpus(resources, job.config.pools.gpus) as gpus:
                    changes = partial(MachineChanges, resources, gpus, job.config.pools, division)
                    context = configured_context(job.stall_timeout_s, resources, changes)
                    with ray.data.DataContext.current(context):
                        dataset = shard_dataset(pass_ids, chunk_rows, job, resources, monitor, gpus.place_pool)
                    _commit_all(iterate_shards(dataset, _POLL_S), committer, monitor, display)
            except MachinesChangedError as error:
                logger.warning("%s; they are divided anew", error)
                pending_ids, resources = committer.pending_ids(), error.resources
                continue
            if len(later_ids):
                pending_ids = later_ids  # what is missing of this pass comes after the last one
                continue
            left = committer.pending_ids()
            if 0 < len(left) <= _FEW or len(left) == len(pass_ids):
                alone = left[:_FEW].tolist()
                logger.info("%d images are tried alone%s", len(alone), _last_error(monitor))
                isolated = annotate_isolated(alone, job, resources, monitor, _POLL_S)
                _commit_all(isolated, committer, monitor, display)
                left = committer.pending_ids()
            # One image a reading task, so that the next pass loses fewer beside those that crash it.
            pending_ids, chunk_rows = left, math.ceil(len(left) / _MAX_TASKS)


def rows_per_chunk(num_pending: int, job: Job, resources: Resources) -> int:
    """How many ids a reading task of a run gets, of so many that are pending."""
    block_images = images_per_block(job.crops_per_image, resources)
    # Whole blocks, if that leaves each encoder two of them.
    rows = max(math.ceil(num_pending / _MIN_CHUNKS), min(block_images, num_pending // (2 * resources.encode_actors)))
    rows = min(rows, _MAX_CHUNK_ROWS, _MAX_CHUNK_MASKS // max(1, job.max_masks))
    return max(1, whole_blocks(rows, block_images))


def _last_error(monitor: Any) -> str:
    state = read_monitor(monitor)
    return "" if state is None or state.last_error is None else f"; the last error was {state.last_error}"


def _commit_all(written: Generator[list[Shard]], committer: _Committer, monitor: Any, display: Display) -> None:
    counts = Counts()
    try:
        with closing(written):
            try:
                for shards in written:
                    committer.add(shards)
                    if (state := read_monitor(monitor)) is None:
                        check_cluster()
                    elif state.failure is not None:
                        raise state.failure
                    else:
                        counts = state.counts
                    display.update(counts, committer.num_committed)
            except KeyboardInterrupt:
                if is_stopping():  # what else is ready comes without waiting
                    for shards in takewhile(bool, written):
                        committer.take(shards)
                raise
    except MachinesChangedError:
        committer.flush()  # not suppressed as below: the run goes on from what is committed, so an error must end it
        raise
    except BaseException:
        with suppress(SamPipelineError):  # the first error says more
            committer.flush()  # what was written must not be done again
        raise
    committer.flush()
    display.update(counts, committer.num_committed)


class _Committer:
    """Commits shards several at a time: immediately when the last commit is an interval ago, else with the next ones.

    An image that has a row gets no second one: a reading task that was tried again may have cut its images into other
    blocks, so that Ray takes some of them twice. A shard that holds such an image is left uncommitted, and its others
    to the next pass.

    While there is nothing to commit, it looks whether another start took over: a commit would tell, but the first one
    of a slow model takes minutes.

    Args:
        table: the results.
        interval_s: seconds between commits.
        done: (N,) bool, which images have a row; kept up to date.
        metrics: shows where the results are.
    """

    def __init__(
        self, table: MaskTable, interval_s: float, done: npt.NDArray[np.bool_], metrics: CommitMetrics
    ) -> None:
        self._table, self._interval_s, self._done, self._metrics = table, interval_s, done, metrics
        self._waiting: list[Shard] = []
        self._num_waiting, self._waiting_since = 0, 0.0
        self._last_look = time.monotonic()
        self._look_after_s = _FIRST_LOOK_S
        self._last = self._last_look - interval_s  # the first shard does not wait
        self.num_committed = int(done.sum())
        self._show()

    def pending_ids(self) -> npt.NDArray[np.int64]:
        """Images that have no row, ascending."""
        return np.flatnonzero(~self._done)

    def take(self, shards: list[Shard]) -> None:
        """Have shards committed by the next commit."""
        for shard in shards:
            ids = shard.image_ids
            if self._done[ids].any() or len(np.unique(ids)) < len(ids):
                logger.warning("a shard that holds an image for the second time is not committed")
                continue
            self._done[ids] = True
            self._waiting.append(shard)
            self._num_waiting += shard.file.num_rows
            self._waiting_since = self._waiting_since or time.time()
        self._show()

    def add(self, shards: list[Shard]) -> None:
        """Take shards, and commit if it is time to."""
        self.take(shards)
        now = time.monotonic()
        if self._waiting and now - self._last >= self._interval_s:
            self.flush()
        elif now - max(self._last, self._last_look) >= self._look_after_s:
            self._table.check_fence()
            self._last_look, self._look_after_s = now, min(2 * self._look_after_s, _LOOK_INTERVAL_S)

    def flush(self) -> None:
        # A commit that fails is not tried again: it may have been done, and the next start will see.
        with shielded():
            shards, self._waiting = self._waiting, []
            if shards:
                start, num_images = time.monotonic(), self._num_waiting
                self._table.commit(shards)
                self.num_committed += num_images
                self._last = time.monotonic()
                self._num_waiting, self._waiting_since = 0, 0.0
                self._metrics.observe(num_images, self._last - start)
                self._show()

    def _show(self) -> None:
        state = CommitState(len(self._done), self.num_committed, self._num_waiting, self._waiting_since)
        self._metrics.show(state)
