"""A run from start to end: plan or reuse the plan, fence earlier starts, do what is left, commit it, compact."""

from __future__ import annotations

import logging
import time
import uuid
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from sam_pipeline.config import AnnotateConfig, ResolvedPrecision
from sam_pipeline.config.fingerprint import stored_settings
from sam_pipeline.pipeline.job import Backend
from sam_pipeline.pipeline.machines.awaited_gpus import awaited_gpus
from sam_pipeline.pipeline.machines.cluster import connected
from sam_pipeline.pipeline.metrics import counted_retries
from sam_pipeline.pipeline.passes import MakeDisplay, annotate_pending
from sam_pipeline.pipeline.starting.planned_run import (
    PlannedRun,
    check_settings,
    plan_run,
    precision_before,
    prepare_weights,
)
from sam_pipeline.pipeline.starting.prepared_job import prepare_job
from sam_pipeline.pipeline.starting.restarts import ray_errors, restarting
from sam_pipeline.pipeline.starting.start_recording import StartRecorder
from sam_pipeline.pipeline.workers.sam_backend import SAM
from sam_pipeline.storage.maintenance.status import Outcome, read_outcome
from sam_pipeline.storage.run_ids import run_id
from sam_pipeline.storage.tables.plan import check_plan, confirm_plan
from sam_pipeline.storage.tables.prompts import check_without_prompts
from sam_pipeline.storage.tables.reading.run_header import read_header
from sam_pipeline.storage.tables.results import MaskTable

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Summary:
    """A finished run."""

    outcome: Outcome
    num_annotated: int
    """Images done by this start; the others were committed before."""
    elapsed_s: float


def annotate(
    config: AnnotateConfig, make_display: MakeDisplay, backend: Backend = SAM, *, start_id: str | None = None
) -> Summary:
    """Run, or resume, until every planned image has a committed row.

    If no image succeeds, nothing is raised: Outcome.total_failure says why. A partial failure is logged as a warning.

    After a transient failure (a stall, lost machines, storage that does not answer) it starts again, as often as the
    configuration allows.

    Args:
        config: the settings.
        make_display: what to show progress on.
        backend: what computes masks.
        start_id: names this start in its records; None makes a new one.

    Raises:
        SamPipelineError: see sam_pipeline.errors; after a RunFailedError the same call resumes.
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


def _recorded_start(start_id: str, run: PlannedRun, *arguments: Any) -> None:
    with counted_retries(run_id(run.plan.output)), StartRecorder(start_id) as recorder:
        _start(recorder, run, *arguments)


def _start(recorder: StartRecorder, run: PlannedRun, make_display: MakeDisplay, backend: Backend) -> None:
    # Read again: this may be another attempt.
    run = replace(run, before=read_header(run.plan.output, run.config.storage_options))
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
        recorder.released()
    table.compact()


def _begin(
    recorder: StartRecorder, run: PlannedRun, precision: ResolvedPrecision
) -> tuple[MaskTable, npt.NDArray[np.bool_]]:
    """Take the results over; returns their table and which images have a row, (num_images,) bool."""
    plan, options, pinned = run.plan, run.config.storage_options, run.fingerprint(precision)
    table = recorder.take_over(plan.output, pinned, {"config": stored_settings(run.config)}, options)
    done = table.committed_ids(plan.num_images)
    if done.any():
        check_plan(plan, options)  # with results it cannot be made anew, and gets no prompts
    else:
        # Make sure that the plan was not replaced since it was read. From here on it cannot be, and gets no prompts.
        confirm_plan(plan, options)
        if run.targets.prompts is None:
            check_without_prompts(plan.output, options, plan.generation)
    return table, done


def _finished_table(recorder: StartRecorder, run: PlannedRun) -> MaskTable | None:
    """Take the results over if no image is left to do: to compact them, should that have been interrupted.

    Returns:
        None where there is something to do.

    Raises:
        FingerprintMismatchError: see check_settings.
    """
    check_settings(run)
    if run.num_before < run.plan.num_images:
        return None
    pinned = run.fingerprint(precision_before(run))
    table = recorder.take_over(run.plan.output, pinned, {}, run.config.storage_options)
    # As many rows as images is not yet a row for each.
    return table if table.committed_ids(run.plan.num_images).all() else None
