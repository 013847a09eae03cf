"""A run from start to end: plan or reuse the plan, fence earlier starts, do what is left, commit it, compact."""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import ray
import tenacity

from sam_pipeline.config import AnnotateConfig, MaskConfig, ModelConfig, ResolvedPrecision
from sam_pipeline.config.fingerprint import absolute_place, fingerprint, settings_of_run, stored_places, stored_settings
from sam_pipeline.errors import ClusterError, FingerprintMismatchError, RunFailedError
from sam_pipeline.masks.geometry.crops import generate_crop_boxes
from sam_pipeline.masks.geometry.grids import build_all_layer_point_grids
from sam_pipeline.model.checkpoints import official_sha256, resolve_checkpoint, sha256_of
from sam_pipeline.pipeline.job import Backend, Job, crops_per_image, generator_settings
from sam_pipeline.pipeline.machines.awaited_gpus import awaited_gpus
from sam_pipeline.pipeline.machines.cluster import connected
from sam_pipeline.pipeline.machines.division_text import division_lines, expectation
from sam_pipeline.pipeline.machines.resources import Cluster, Resources, check_batch_fits, divide
from sam_pipeline.pipeline.machines.suitability import check_all_machines_see, check_cluster_suits
from sam_pipeline.pipeline.passes import MakeDisplay, annotate_pending
from sam_pipeline.pipeline.plan import ensure_plan, sample_images
from sam_pipeline.pipeline.prompt_plan import Targets, resolve_targets
from sam_pipeline.pipeline.run import images_per_block
from sam_pipeline.pipeline.start_recording import StartRecorder
from sam_pipeline.pipeline.workers.sam_backend import SAM
from sam_pipeline.process.supervised import num_restarts, tell_restart
from sam_pipeline.safety.clean_text import one_line
from sam_pipeline.storage.inputs.fetching import find_probe
from sam_pipeline.storage.maintenance.status import Outcome, read_outcome
from sam_pipeline.storage.objects.filesystem import absolute_uri, join_uri
from sam_pipeline.storage.tables.plan import Plan, check_plan, confirm_plan, read_plan
from sam_pipeline.storage.tables.prompts import check_without_prompts
from sam_pipeline.storage.tables.results import MaskTable, RunHeader, check_fingerprint, read_header
from sam_pipeline.storage.tables.schema import SCHEMA_VERSION

_STALL_TIMEOUT_S = 600.0
# A batch that hangs is tried twice before its rows are dropped; the run must not stall first.
_TIMEOUTS_BEFORE_A_STALL = 4

# No worker needs as much, and one that runs away is stopped before it takes its machine down.
_WORKER_MEMORY_SHARE = 0.6

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Summary:
    """A finished run."""

    outcome: Outcome
    num_annotated: int
    """Images done by this start; the others were committed before."""
    elapsed_s: float


@dataclass(frozen=True)
class PlannedRun:
    """A run whose plan, prompts and settings are settled."""

    config: AnnotateConfig
    """With the settings that the run began with, where none were given."""
    plan: Plan
    targets: Targets
    weights_sha256: str
    before: RunHeader | None
    """What the run began with, if it has begun."""

    @property
    def num_before(self) -> int:
        """Images that had a row when the plan was read."""
        return 0 if self.before is None else self.before.num_images

    @property
    def begun_with(self) -> dict[str, Any]:
        """The fingerprint of the results that there are."""
        assert self.before is not None, "asked only of a run that has begun"
        pinned: dict[str, Any] = json.loads(self.before.metadata["fingerprint"])
        return pinned

    def fingerprint(self, precision: ResolvedPrecision) -> dict[str, Any]:
        """What decides the values of its results."""
        return fingerprint(
            self.config,
            **self.targets.pinned,
            precision=precision,
            weights_sha256=self.weights_sha256,
            schema_version=SCHEMA_VERSION,
        )


def annotate(
    config: AnnotateConfig, make_display: MakeDisplay, backend: Backend = SAM, *, start_id: str | None = None
) -> Summary:
    """Run, or resume, until every planned image has a committed row.

    That nothing succeeded is no error here: Outcome.total_failure says so. What failed in part is a warning in the log.

    After a transient failure (a stall, lost machines, storage that does not answer) it starts again, as often as the
    configuration allows.

    Args:
        config: the settings.
        make_display: what to show progress on.
        backend: what computes masks.
        start_id: names this start in its records; None makes a new one.

    Raises:
        SamPipelineError: see sam_pipeline.errors; after any of them the same call resumes.
    """
    start = time.monotonic()
    starts = restarting(config.max_restarts)
    run = plan_run(config, starts)
    starts(_recorded_start, start_id or uuid.uuid4().hex, run, make_display, backend)
    plan = run.plan
    outcome = starts(read_outcome, plan.output, run.targets.prompts, plan.num_images, config.storage_options)
    if outcome.total_failure is None and outcome.partial_failure is not None:
        logger.warning("%s", outcome.partial_failure)
    return Summary(outcome, outcome.num_images - run.num_before, time.monotonic() - start)


def plan_run(config: AnnotateConfig, starts: tenacity.Retrying) -> PlannedRun:
    """Plan a run, or read its plan, and settle what it does.

    Args:
        config: as given.
        starts: see restarting.

    Raises:
        SamPipelineError: see sam_pipeline.errors.
    """
    starts(_check_cluster, config)
    plan = starts(ensure_plan, config)
    before = starts(read_header, plan.output, config.storage_options)
    given = config.given()
    if before is not None and not (config.replan and before.num_images == 0):
        config = settings_of_run(config, before.metadata)
    targets = starts(resolve_targets, config, plan)
    return PlannedRun(config, plan, targets, _weights_sha256(config, given, before), before)


def _check_cluster(config: AnnotateConfig) -> None:
    """Look at the cluster before a listing that may take hours; what is planned already is read in no time."""
    if config.extend or config.replan or read_plan(absolute_uri(config.output), config.storage_options) is None:
        with ray_errors():
            check_cluster_suits(config)


def _recorded_start(start_id: str, *arguments: Any) -> None:
    with StartRecorder(start_id) as recorder:
        _start(recorder, *arguments)


def _start(recorder: StartRecorder, run: PlannedRun, make_display: MakeDisplay, backend: Backend) -> None:
    table = _finished_table(recorder, run)
    if table is None:
        # Before the cluster: a typing error should cost a second, not a minute.
        prepare_weights(run)
        with (
            ray_errors(),
            connected(run.config.num_cpus) as present,
            awaited_gpus(run.config.pools, present) as cluster,
        ):
            job, resources = prepare_job(run, cluster, backend)
            recorder.uses(cluster, resources)
            table, done = _begin(recorder, run, job.precision)
            pending_ids = np.flatnonzero(~done)
            if len(pending_ids):
                job = replace(job, table_id=table.id)
                shown = recorder.metering(make_display)
                annotate_pending(table, pending_ids, job, resources, run.plan.num_images, shown)
    table.compact()


def prepare_job(run: PlannedRun, cluster: Cluster, backend: Backend) -> tuple[Job, Resources]:
    """Divide a cluster for a run, and settle what its workers need to know; all but the id of the results.

    Raises:
        ClusterError: the run does not fit into the cluster, or some machines do not see its files.
        InputError: no image can be read.
        StorageUnavailableError: storage did not answer.
    """
    config, plan, targets = run.config, run.plan, run.targets
    resources = divide(config.pools, config.model.device, config.model.model_type, cluster)
    for line in division_lines(resources, cluster):
        logger.info("%s", line)
    if resources.device == "cuda":
        logger.info("%s", expectation(resources, config.model.model_type, cluster.num_cpus))
    precision = _resolved_precision(config.model, resources.device)
    probe_uri = find_probe(sample_images(plan, config.storage_options), config.storage_options)
    check_all_machines_see([join_uri(plan.output, "images"), *filter(None, [probe_uri])])
    num_crops = crops_per_image(generator_settings(config.masks, targets.mode))
    num_at_once = images_per_block(num_crops, resources) * num_crops
    check_batch_fits(num_at_once, precision, cluster.smallest_object_store_bytes)
    stall_timeout_s = config.stall_timeout_s or _stall_timeout_s(config.masks, targets, resources.device)
    job = Job(
        config=config,
        output=plan.output,
        table_id="",
        device=resources.device,
        precision=precision,
        weights_sha256=run.weights_sha256,
        threads=resources.threads,
        finishers=resources.finishers,
        stall_timeout_s=stall_timeout_s,
        image_timeout_s=config.image_timeout_s or stall_timeout_s / _TIMEOUTS_BEFORE_A_STALL,
        worker_memory_bytes=_worker_memory_bytes(config, cluster),
        mode=targets.mode,
        has_prompts=targets.prompts is not None,
        max_masks=0 if targets.prompts is None else targets.prompts.max_masks,
        point_grids=targets.layers,
        probe_uri=probe_uri,
        backend=backend,
    )
    return job, resources


def _begin(
    recorder: StartRecorder, run: PlannedRun, precision: ResolvedPrecision
) -> tuple[MaskTable, npt.NDArray[np.bool_]]:
    """Take the results over, and which of their images are done: (num_images,) bool."""
    plan, options, pinned = run.plan, run.config.storage_options, run.fingerprint(precision)
    table = recorder.take_over(plan.output, pinned, {"config": stored_settings(run.config)}, options)
    done = table.committed_ids(plan.num_images)
    if done.any():
        check_plan(plan, options)  # with results it cannot be made anew, and gets no prompts
    else:
        # From here on the plan cannot be made anew, and was not since it was read. It gets no prompts either.
        confirm_plan(plan, options)
        if run.targets.prompts is None:
            check_without_prompts(plan.output, options, plan.generation)
    return table, done


def _weights_sha256(config: AnnotateConfig, given: Mapping[str, Any], before: RunHeader | None) -> str:
    """The SHA-256 of a start's weights. The file is read only if nothing else says it: a finished run needs no weights.

    Args:
        config: the settings, with those of the run.
        given: the settings that this start was given.
        before: what the run began with, if it has begun.
    """
    model = config.model
    if model.checkpoint is None:
        return official_sha256(model.model_type)
    if before is not None and before.num_images:
        stored = stored_places(before.metadata).get("checkpoint")
        if "checkpoint" not in given or absolute_place(model.checkpoint) == stored:
            pinned: str = json.loads(before.metadata["fingerprint"])["weights_sha256"]
            return pinned
    return sha256_of(resolve_checkpoint(model.model_type, model.checkpoint))


def prepare_weights(run: PlannedRun) -> None:
    """Have the weights on this machine, and refuse those that are not the right ones.

    Raises:
        CheckpointError: missing, corrupt, or of another architecture.
        FingerprintMismatchError: the file is not the one that the run began with.
    """
    model = run.config.model
    weights = resolve_checkpoint(model.model_type, model.checkpoint)
    if model.checkpoint is None:
        return  # official weights are checked as they are fetched
    from sam_pipeline.pipeline.workers.engine import check_weights  # torch: official weights need no look inside

    check_weights(model.model_type, weights)
    found = sha256_of(weights)
    logger.info("checkpoint %s has SHA-256 %s", model.checkpoint, found)
    if found != run.weights_sha256:
        raise FingerprintMismatchError({"weights_sha256": (run.weights_sha256, found)})


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


def check_settings(run: PlannedRun) -> None:
    """Refuse a start whose settings are not those of the results that there are.

    Needs no cluster: hardware decides nothing but an automatic precision, and there it keeps what the run began with.

    Raises:
        FingerprintMismatchError: the results, finished or not, are of other settings.
    """
    if run.num_before:  # else nothing was computed, with whatever settings
        check_fingerprint(run.begun_with, run.fingerprint(_precision_before(run)))


def _finished_table(recorder: StartRecorder, run: PlannedRun) -> MaskTable | None:
    """Take the results over if no image is left to do: to compact them, should that have been interrupted.

    Returns:
        None where there is something to do.

    Raises:
        FingerprintMismatchError: see check_settings.
    """
    # Read again: this may be another attempt.
    run = replace(run, before=read_header(run.plan.output, run.config.storage_options))
    check_settings(run)
    if run.num_before < run.plan.num_images:
        return None
    pinned = run.fingerprint(_precision_before(run))
    table = recorder.take_over(run.plan.output, pinned, {}, run.config.storage_options)
    # As many rows as images is not yet a row for each.
    return table if table.committed_ids(run.plan.num_images).all() else None


def _precision_before(run: PlannedRun) -> ResolvedPrecision:
    """What a run with results computes in."""
    given = run.config.model.precision
    if given == "auto":
        precision: ResolvedPrecision = run.begun_with["precision"]
        return precision
    return given


def _resolved_precision(model: ModelConfig, device: str) -> ResolvedPrecision:
    if model.precision == "auto":
        return "fp16" if device == "cuda" else "fp32"
    return model.precision


def _worker_memory_bytes(config: AnnotateConfig, cluster: Cluster) -> int:
    if config.worker_memory_gb is not None:
        return int(config.worker_memory_gb * 1e9)
    return int(_WORKER_MEMORY_SHARE * cluster.smallest_node_memory_bytes)


def _stall_timeout_s(masks: MaskConfig, targets: Targets, device: str) -> float:
    if device == "cuda":
        return _STALL_TIMEOUT_S
    num_prompts = 0 if targets.prompts is None else targets.prompts.max_prompts
    if targets.mode != "prompted":
        grids = targets.layers or build_all_layer_point_grids(
            masks.points_per_side, masks.crop_n_layers, masks.crop_n_points_downscale_factor
        )
        # Any size will do: the number of crops does not depend on it for images that are not tiny.
        _, layers = generate_crop_boxes((1024, 1024), masks.crop_n_layers, masks.crop_overlap_ratio)
        num_prompts += sum(len(grids[layer]) for layer in layers)
    return _STALL_TIMEOUT_S + num_prompts
