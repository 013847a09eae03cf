"""A sample of a run: some of its images go through the run's own stages, and their progress is noted.

Images differ in size and prompts, and neighbours are alike, so the sample is drawn at random from all that is pending.
It is drawn in stretches of neighbours, though, because a run reads neighbours together:

- as many as a block holds, where each image is read by itself. On CPUs that is one image;
- as many as one reading task of the run gets, where a container is read through for them (compressed tar archives,
  Parquet files). Else the sample would read a container for each image.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import ray

from sam_pipeline.errors import ClusterError, RunFailedError
from sam_pipeline.pipeline.job import Job
from sam_pipeline.pipeline.machines.placement import SharedGpus, shared_gpus
from sam_pipeline.pipeline.machines.resources import Resources
from sam_pipeline.pipeline.monitor import Counts, MonitorState, StageName, StageTimes, read_monitor, start_monitor
from sam_pipeline.pipeline.passes import rows_per_chunk
from sam_pipeline.pipeline.run import configured_context, images_per_block, iterate_shards, shard_dataset
from sam_pipeline.storage.tables.results import Shard

# Seconds that a sample goes on after its first image, and in all: an estimate also starts and stops Ray, and is to take
# less than two minutes.
_SAMPLE_S, _LIMIT_S = 45.0, 70.0
# One image says nothing of the others. With a model that is so slow it may take longer.
_LEAST_IMAGES = 3
_POLL_S = 0.25

# When the sample stops, the last chunks lack their images with the highest ids; small chunks keep that bias small.
_BLOCKS_PER_CHUNK = 4
# Ray Data takes a millisecond for each before it starts.
_MAX_CHUNKS = 2000

_SEED = 0

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """How far a sample was at a time."""

    at_s: float
    """Since the sample began, with the start of its actors."""
    counts: Counts
    stage_times: Mapping[StageName, StageTimes]


@dataclass(frozen=True)
class Sample:
    """What a sample showed."""

    progress: Sequence[Progress]
    """In order; the first is at the first image that was done, and each has more images than the one before."""
    shards: Sequence[Shard]
    """What was written, and is gone."""
    num_places: int
    """Number of stretches of neighbours that its images come from."""

    @property
    def counts(self) -> Counts:
        """Images that were done."""
        return self.progress[-1].counts


def run_sample(pending_ids: npt.NDArray[np.int64], job: Job, resources: Resources, *, reads_through: bool) -> Sample:
    """Send a sample through the stages, until it has told enough or nothing is left.

    Args:
        pending_ids: (N,) int64, ascending: what the run is to do.
        job: the run; its shards are removed as soon as they are written.
        resources: the division of the cluster.
        reads_through: whether the images are in containers that are read through.

    Raises:
        ClusterError: another run holds some of the GPUs.
        RunFailedError: no image came through.
        SamPipelineError: of storage or workers.
    """
    ids, rows, stretch = _chosen(pending_ids, job, resources, reads_through=reads_through)
    monitor = start_monitor()
    start = time.monotonic()
    progress: list[Progress] = []
    shards: list[Shard] = []
    state = MonitorState()

    def look() -> None:
        nonlocal state
        if (new_state := read_monitor(monitor)) is not None:
            state = new_state
            if state.failure is not None:
                raise state.failure
            _note(progress, state, time.monotonic() - start)

    with shared_gpus(resources) as gpus:
        _check_all_free(gpus, resources)
        with ray.data.DataContext.current(configured_context(job.stall_timeout_s, resources)):
            dataset = shard_dataset(ids, rows, job, resources, monitor, gpus.place_pool)
        with closing(iterate_shards(dataset, _POLL_S)) as written:
            for new in written:
                shards += new
                look()
                if _is_enough(progress, time.monotonic() - start):
                    break
            else:
                look()
                progress = with_last_shards(progress, state)
    if not progress:
        raise RunFailedError(f"no image of the sample came through; the last error was {state.last_error}")
    if state.last_error is not None:
        logger.warning("some images of the sample did not come through; the last error was %s", state.last_error)
    return Sample(progress, shards, num_places(progress[-1].counts.num_images, stretch, resources.read_tasks))


def _check_all_free(gpus: SharedGpus, resources: Resources) -> None:
    """Refuse a sample on some of the GPUs: its rate would be taken for that of all."""
    if resources.shares_gpus and (num_free := gpus.num_free()) < resources.encode_actors:
        raise ClusterError(
            f"{num_free} of {resources.encode_actors} GPUs are free, and an estimate is for all of them: wait until "
            "the others are free, or ask for fewer with --gpus"
        )


def _chosen(
    pending_ids: npt.NDArray[np.int64], job: Job, resources: Resources, *, reads_through: bool
) -> tuple[npt.NDArray[np.int64], int, int]:
    """Ids of the sample (chunks in random order, ids in each ascending); how many a chunk and a stretch have."""
    block_images = images_per_block(job.crops_per_image, resources)
    rows = rows_per_chunk(len(pending_ids), job, resources)
    if reads_through:
        return random_chunks(pending_ids, rows, rows), rows, rows
    rows = min(rows, _BLOCKS_PER_CHUNK * block_images)
    stretch = min(rows, block_images)
    return random_chunks(pending_ids, stretch, rows), rows, stretch


def random_chunks(ids: npt.NDArray[np.int64], stretch: int, rows: int) -> npt.NDArray[np.int64]:
    """Stretches of neighbours in random order, the same in each call, as chunks whose ids ascend.

    Args:
        ids: (N,) int64, ascending.
        stretch: ids that stay together.
        rows: ids of a chunk.

    Returns:
        (N,) or fewer.
    """
    num_stretches = -(-len(ids) // stretch)
    num_drawn = min(num_stretches, _MAX_CHUNKS * rows // stretch)
    order = np.random.default_rng(_SEED).choice(num_stretches, num_drawn, replace=False)
    chosen = np.concatenate([ids[number * stretch : (number + 1) * stretch] for number in order])
    for first in range(0, len(chosen), rows):
        chosen[first : first + rows].sort()
    return chosen


def num_places(num_images: int, stretch: int, read_tasks: int) -> int:
    """How many stretches these images come from, when each reading task goes through one after another."""
    return min(num_images, read_tasks + num_images // stretch)


def with_last_shards(progress: Sequence[Progress], state: MonitorState) -> list[Progress]:
    """The same progress, whose end also knows the shards that were written after the last image was decoded."""
    return [*progress[:-1], *(replace(last, stage_times=state.stage_times) for last in progress[-1:])]


def _note(progress: list[Progress], state: MonitorState, now_s: float) -> None:
    """Take a state down if more images are done in it."""
    before = progress[-1].counts.num_images if progress else 0
    if state.counts.num_images > before:
        progress.append(Progress(now_s, state.counts, state.stage_times))


def _is_enough(progress: Sequence[Progress], now_s: float) -> bool:
    if not progress or progress[-1].counts.num_images < _LEAST_IMAGES:
        return False
    return now_s >= _LIMIT_S or now_s - progress[0].at_s >= _SAMPLE_S
