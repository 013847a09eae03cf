"""A run from start to end: plan or reuse the plan, fence earlier starts, do what is left, commit it, compact."""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import ray

from sam_pipeline.config import AnnotateConfig, fingerprint
from sam_pipeline.errors import FencedError, OutputError, RunFailedError
from sam_pipeline.masks.crops import generate_crop_boxes
from sam_pipeline.masks.grids import build_all_layer_point_grids
from sam_pipeline.model.checkpoints import resolve_checkpoint, sha256_of
from sam_pipeline.pipeline.cluster import connect
from sam_pipeline.pipeline.job import Job
from sam_pipeline.pipeline.plan import ensure_plan
from sam_pipeline.pipeline.progress import Counts, Display, read_counter, start_counter
from sam_pipeline.pipeline.resources import Resources, divide
from sam_pipeline.pipeline.run import configured_context, iterate_shards, shard_dataset
from sam_pipeline.storage.filesystem import absolute_uri
from sam_pipeline.storage.mask_table import MaskTable, Shard, check_fingerprint, read_state
from sam_pipeline.storage.plan_table import Plan
from sam_pipeline.storage.schema import SCHEMA_VERSION

_POLL_S = 1.0
_STALL_TIMEOUT_S = 600.0

logger = logging.getLogger(__name__)

MakeDisplay = Callable[[int, int], Display]
"""(planned images, images committed before) → a display."""


@dataclass(frozen=True)
class Summary:
    """A finished run."""

    output: str
    num_images: int
    num_by_status: dict[str, int]
    num_masks: int
    num_annotated: int
    """Images done by this start; the others were committed before."""
    elapsed_s: float


def annotate(config: AnnotateConfig, make_display: MakeDisplay) -> Summary:
    """Run, or resume, until every planned image has a committed row.

    Raises:
        SamPipelineError: see sam_pipeline.errors; after any of them the same call resumes.
    """
    start = time.monotonic()
    plan = ensure_plan(config)
    # Weights and settings before the cluster: a typing error should cost a second, not a minute.
    weights = resolve_checkpoint(config.model.model_type, config.model.checkpoint)
    if config.model.checkpoint is not None:
        from sam_pipeline.pipeline.engine import check_weights  # torch: official weights need no look inside

        check_weights(config.model.model_type, weights)
    weights_sha256 = sha256_of(weights)
    table, num_annotated = _finished_table(config, plan, weights_sha256), 0
    if table is None:
        resources = divide(config.pools, config.model.device, *connect(config.num_cpus))
        job = _resolve(config, resources, weights_sha256)
        table = MaskTable.take_over(
            job.output,
            fingerprint(config, precision=job.precision, weights_sha256=weights_sha256, schema_version=SCHEMA_VERSION),
            {"config": json.dumps(dataclasses.asdict(config))},
            job.storage_options,
        )
        pending_ids = np.flatnonzero(~table.committed_ids(plan.num_images))
        num_annotated = len(pending_ids)
        if num_annotated:
            _annotate_pending(table, pending_ids, job, resources, plan, make_display)
        left = plan.num_images - int(table.committed_ids(plan.num_images).sum())
        if left:
            raise RunFailedError(f"{left} of {plan.num_images} images are not committed; the same command resumes")
    table.compact()
    state = read_state(plan.output, config.parsed_storage_options)
    assert state is not None, "the table was just compacted"
    return Summary(
        output=config.output,
        num_images=plan.num_images,
        num_by_status=dict(state.num_by_status),
        num_masks=state.num_masks,
        num_annotated=num_annotated,
        elapsed_s=time.monotonic() - start,
    )


def _finished_table(config: AnnotateConfig, plan: Plan, weights_sha256: str) -> MaskTable | None:
    """Take the results over if no image is left to do: to compact them, should that have been interrupted.

    Needs no cluster: hardware decides nothing but an automatic precision, and there it keeps what the run began with.

    Returns:
        None where there is something to do.

    Raises:
        FingerprintMismatchError: the results, finished or not, are of other settings.
    """
    state = read_state(plan.output, config.parsed_storage_options)
    if state is None:
        return None
    begun_with = json.loads(state.metadata["fingerprint"])
    precision = begun_with["precision"] if config.model.precision == "auto" else config.model.precision
    wanted = fingerprint(config, precision=precision, weights_sha256=weights_sha256, schema_version=SCHEMA_VERSION)
    check_fingerprint(begun_with, wanted)
    if state.num_by_status.total() < plan.num_images:
        return None
    return MaskTable.take_over(plan.output, wanted, {}, config.parsed_storage_options)


def _resolve(config: AnnotateConfig, resources: Resources, weights_sha256: str) -> Job:
    precision = config.model.precision
    if precision == "auto":
        precision = "bf16" if resources.device == "cuda" else "fp32"
    return Job(
        config=config,
        output=absolute_uri(config.output),
        device=resources.device,
        precision=precision,
        weights_sha256=weights_sha256,
        threads=resources.threads,
    )


def _annotate_pending(
    table: MaskTable,
    pending_ids: np.typing.NDArray[np.int64],
    job: Job,
    resources: Resources,
    plan: Plan,
    make_display: MakeDisplay,
) -> None:
    counter = start_counter()
    num_before = plan.num_images - len(pending_ids)
    committer = _Committer(table, job.config.commit_interval_s, num_before)
    with ray.data.DataContext.current(configured_context(_stall_timeout_s(job))):
        dataset = shard_dataset(pending_ids, job, resources, counter)
        with make_display(plan.num_images, num_before) as display:
            counts = Counts()
            try:
                with closing(iterate_shards(dataset, _POLL_S)) as written:
                    for shards in written:
                        committer.add(shards)
                        counts = read_counter(counter) or counts
                        display.update(counts, committer.num_committed)
            except (FencedError, OutputError):
                raise
            except BaseException:
                committer.flush()  # what was written must not be done again
                raise
            committer.flush()
            display.update(counts, committer.num_committed)


class _Committer:
    """Commits shards several at a time: at once when the last commit is an interval ago, else with the next ones."""

    def __init__(self, table: MaskTable, interval_s: float, num_committed: int) -> None:
        self._table, self._interval_s = table, interval_s
        self._waiting: list[Shard] = []
        self._last = -interval_s  # the first shard is committed as soon as it is there
        self.num_committed = num_committed

    def add(self, shards: list[Shard]) -> None:
        self._waiting += shards
        if time.monotonic() - self._last >= self._interval_s:
            self.flush()

    def flush(self) -> None:
        if self._waiting:
            self._table.commit(self._waiting)
            self.num_committed += sum(shard.file.num_rows for shard in self._waiting)
            self._waiting = []
            self._last = time.monotonic()


def _stall_timeout_s(job: Job) -> float:
    if job.config.stall_timeout_s is not None:
        return job.config.stall_timeout_s
    if job.device == "cuda":
        return _STALL_TIMEOUT_S
    masks = job.config.masks
    grids = build_all_layer_point_grids(
        masks.points_per_side, masks.crop_n_layers, masks.crop_n_points_downscale_factor
    )
    # Any size will do: the number of crops does not depend on it for images that are not tiny.
    _, layers = generate_crop_boxes((1024, 1024), masks.crop_n_layers, masks.crop_overlap_ratio)
    return _STALL_TIMEOUT_S + sum(len(grids[layer]) for layer in layers)
