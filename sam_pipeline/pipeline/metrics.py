"""What Prometheus sees of a run: every series of the pipeline, declared once. Ray exports them with the prefix "ray_".

Each process counts for itself and passes its counts on to the agent of its machine, which Prometheus asks. Where Ray
has no agent, the counts stay where they are. They are for display and alerts: a process that is killed takes its last
seconds with it, and an image that is tried again counts again. The tables alone say what is done.
"""

from __future__ import annotations

import threading
from collections import Counter as CounterOf
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache, partial

from ray.util.metrics import Counter, Gauge, Histogram

from sam_pipeline.storage.inputs.fetching import Fetched
from sam_pipeline.storage.objects.retry_listeners import retries_told_to

# From a batch on a GPU to an image of vit_h on a CPU.
_SECONDS = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500]
_SHOW_INTERVAL_S = 1.0


class _Series:
    """All series. The label run is the run_id of storage/run_ids.py."""

    def __init__(self) -> None:
        self.info = Gauge("sam_pipeline_run_info", "Always 1; names the output of a run", ("run", "output"))
        # In workers.
        self.images = Counter("sam_pipeline_images_total", "Images annotated", ("run", "status"))
        self.masks = Counter("sam_pipeline_masks_total", "Masks found", ("run",))
        self.stage_seconds = Histogram(
            "sam_pipeline_stage_seconds", "Time that a block of images takes in a stage", _SECONDS, ("run", "stage")
        )
        self.stage_images = Counter("sam_pipeline_stage_images_total", "Images through a stage", ("run", "stage"))
        self.crops = Counter("sam_pipeline_encoder_crops_total", "Crops in the encoder's batches", ("run",))
        self.places = Counter("sam_pipeline_encoder_places_total", "Crops that would have fitted in", ("run",))
        self.read_bytes = Counter("sam_pipeline_read_bytes_total", "Bytes of images that were fetched", ("run",))
        self.written_bytes = Counter("sam_pipeline_written_bytes_total", "Bytes of shards that were put", ("run",))
        # In workers and in the driver.
        self.retries = Counter(
            "sam_pipeline_storage_retries_total", "Storage calls that were tried again", ("run", "operation")
        )
        # In the driver.
        self.planned = Gauge("sam_pipeline_planned_images", "Images in the plan", ("run",))
        self.pending = Gauge("sam_pipeline_pending_images", "Images without a committed row", ("run",))
        self.committed = Counter("sam_pipeline_committed_images_total", "Images committed", ("run",))
        self.commit_seconds = Histogram("sam_pipeline_commit_seconds", "Time that a commit takes", _SECONDS, ("run",))
        self.uncommitted = Gauge("sam_pipeline_uncommitted_images", "Images that are written, not committed", ("run",))
        self.uncommitted_since = Gauge(
            "sam_pipeline_uncommitted_since_timestamp_seconds",
            "When the driver got the first shard that is not committed; 0 if there is none",
            ("run",),
        )


@cache
def _series() -> _Series:
    """Made when a process first counts something: made at import, they would cost every command."""
    return _Series()


def count_images(run: str, num_masks_by_image: Sequence[tuple[str, int]]) -> None:
    """Count annotated images: (status, masks) of each."""
    for status, num_images in CounterOf(status for status, _ in num_masks_by_image).items():
        _series().images.inc(num_images, {"run": run, "status": status})
    _add(_series().masks, sum(num_masks for _, num_masks in num_masks_by_image), run)


def observe_block(run: str, stage: str, num_images: int, seconds: float) -> None:
    """Count a block of images that went through a stage, and how long it took there."""
    labels = {"run": run, "stage": stage}
    _series().stage_seconds.observe(seconds, labels)
    _series().stage_images.inc(num_images, labels)


def count_batches(run: str, num_crops: int, batch_size: int) -> None:
    """Count crops that an encoder took in as few batches as hold them, and how many these batches would have held."""
    _add(_series().crops, num_crops, run)
    _add(_series().places, -(-num_crops // batch_size) * batch_size, run)


def counted(fetched: Iterable[Fetched], run: str) -> Iterator[Fetched]:
    """Pass on what was fetched, and count its bytes."""
    for data in fetched:
        if isinstance(data, bytes):
            _add(_series().read_bytes, len(data), run)
        yield data


def count_written(run: str, num_bytes: int) -> None:
    """Count the bytes of a shard."""
    _add(_series().written_bytes, num_bytes, run)


def counted_retries(run: str) -> AbstractContextManager[None]:
    """Count the storage calls that this process tries again while the context is entered."""
    return retries_told_to(partial(_count_retry, run))


def _count_retry(run: str, operation: str) -> None:
    _series().retries.inc(1, {"run": run, "operation": operation})


@dataclass(frozen=True)
class CommitState:
    """Where the results of a run are, as its driver knows it."""

    num_planned: int
    """Images."""
    num_committed: int
    """Images, by all starts."""
    num_waiting: int
    """Images whose shard waits to be committed."""
    waiting_since: float
    """When the first of these shards came, in seconds since 1970; 0 if none waits."""


class CommitMetrics:
    """What the driver shows while this is entered.

    Ray forgets a gauge that nobody has set for twenty seconds, and a commit may take two minutes: a thread sets them.

    Args:
        run: Job.run_id.
        output: of the run.
    """

    def __init__(self, run: str, output: str) -> None:
        self._run, self._output = run, output
        self._state: CommitState | None = None
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._keep_showing, name="metrics", daemon=True)

    def __enter__(self) -> CommitMetrics:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def show(self, state: CommitState) -> None:
        """Show where the results are from now on."""
        self._state = state

    def observe(self, num_images: int, seconds: float) -> None:
        """Count a commit and its images, and how long it took."""
        _series().commit_seconds.observe(seconds, {"run": self._run})
        _add(_series().committed, num_images, self._run)

    def _keep_showing(self) -> None:
        series, labels, is_over = _series(), {"run": self._run}, False
        while not is_over:
            is_over = self._is_over.wait(_SHOW_INTERVAL_S)
            series.info.set(1, {**labels, "output": self._output})
            if (state := self._state) is not None:
                series.planned.set(state.num_planned, labels)
                series.pending.set(state.num_planned - state.num_committed, labels)
                series.uncommitted.set(state.num_waiting, labels)
                series.uncommitted_since.set(state.waiting_since, labels)


def _add(counter: Counter, number: int, run: str) -> None:
    if number:  # Ray refuses to count nothing
        counter.inc(number, {"run": run})
