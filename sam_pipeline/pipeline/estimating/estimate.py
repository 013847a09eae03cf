"""What a run would take, before it is begun: a sample of its images goes through its own stages on its machines.

The plan is made, or changed as --extend, --replan and --redo-changed ask, and prompts are frozen, as for the run.
Nothing else is written into the output: no epoch of the results is taken, so that a run in progress goes on, and shards
of the sample stay in the memory of who writes them.
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace

import numpy as np

from sam_pipeline.config import EstimateConfig
from sam_pipeline.errors import NothingSucceededError
from sam_pipeline.pipeline.estimating.figures import Estimate, RunFigures, SampleFigures
from sam_pipeline.pipeline.estimating.predicting import Measured, larger_by_a_node, on_machines
from sam_pipeline.pipeline.estimating.rates import measured_rates
from sam_pipeline.pipeline.estimating.requests import Work
from sam_pipeline.pipeline.estimating.sample import Sample, run_sample
from sam_pipeline.pipeline.job import Backend
from sam_pipeline.pipeline.machines.awaited_gpus import awaited_gpus
from sam_pipeline.pipeline.machines.cluster import connected, without_messages
from sam_pipeline.pipeline.machines.resources import divide
from sam_pipeline.pipeline.passes import rows_per_chunk
from sam_pipeline.pipeline.starting.planned_run import PlannedRun, check_settings, plan_run, prepare_weights
from sam_pipeline.pipeline.starting.prepared_job import prepare_job
from sam_pipeline.pipeline.starting.restarts import ray_errors, restarting
from sam_pipeline.pipeline.workers.sam_backend import SAM
from sam_pipeline.storage.inputs.first_images import spread_rows
from sam_pipeline.storage.inputs.source_object import SourceObject, object_of_row
from sam_pipeline.storage.tables.plan import read_planned
from sam_pipeline.storage.tables.results import read_committed_ids

logger = logging.getLogger(__name__)


def estimate(config: EstimateConfig, backend: Backend = SAM) -> Estimate:
    """Plan a run if there is no plan yet, and estimate what is left of it.

    Raises:
        ClusterError: the run does not fit into the cluster; where it has no GPU, before the input is listed.
        NothingSucceededError: no image of the sample is ok.
        SamPipelineError: as for a run, see sam_pipeline.errors.
    """
    start = time.monotonic()
    run = plan_run(config, restarting(0))
    check_settings(run)
    output, num_images = run.plan.output, run.plan.num_images
    pending_ids = np.flatnonzero(~read_committed_ids(output, num_images, config.storage_options))
    if not len(pending_ids):
        return Estimate(output, num_images, 0, time.monotonic() - start)
    prepare_weights(run)  # what it fetches, the run need not fetch
    planned_at = time.monotonic()
    with (
        ray_errors(),
        without_messages(),
        connected(config.num_cpus) as present,
        # The estimate is for the GPUs that are there: wait for all that are asked for, or for --min-gpus.
        awaited_gpus(replace(config.pools, min_gpus=config.pools.min_gpus or config.pools.gpus), present) as cluster,
    ):
        job, resources = prepare_job(run, cluster, backend)
        looked_at = _some_images(run)
        logger.info("a sample of the images goes through the stages, which takes about a minute")
        sampled_at = time.monotonic()
        sample = run_sample(
            pending_ids,
            replace(job, is_sample=True),
            resources,
            reads_through=any(_is_read_through(image) for image in looked_at),
        )
        stopped_at = time.monotonic()
    _check_ok(sample)
    rates, left = measured_rates(sample, resources, cluster.num_cpus), len(pending_ids)
    bytes_out = _bytes_out(sample, left)
    work = Work(
        output=output,
        num_images=left,
        looked_at=looked_at,
        chunk_rows=rows_per_chunk(left, job, resources),
        shard_rows=resources.shard_rows,
        bytes_out=bytes_out,
        has_prompts=job.has_prompts,
        commit_interval_s=config.commit_interval_s,
    )
    measured = Measured(
        rates=rates,
        work=work,
        start_s=sampled_at - planned_at,
        stop_s=time.monotonic() - stopped_at,
        prices=config.prices,
        cluster=cluster,
        resources=resources,
    )
    now = on_machines(measured, cluster, resources)
    return Estimate(
        output=output,
        num_images=num_images,
        num_left=left,
        estimate_s=time.monotonic() - start,
        bytes_out=bytes_out,
        time_spread=measured.time_spread(now.time_s, sample.counts.num_images),
        sample=SampleFigures(sample.counts.num_images, dict(sample.counts.num_by_status), stopped_at - sampled_at),
        stages=rates.stages,
        bottleneck=rates.bottleneck,
        run=now,
        one_more_node=_on_one_more_node(measured, run),
    )


def _on_one_more_node(measured: Measured, run: PlannedRun) -> RunFigures | None:
    pools, model = run.config.pools, run.config.model
    if pools.encode_on or pools.decode_on:
        return None
    more = larger_by_a_node(measured.cluster)
    return on_machines(measured, more, divide(pools, model.device, model.model_type, more))


def _some_images(run: PlannedRun) -> list[SourceObject]:
    rows = read_planned(run.plan.output, spread_rows(run.plan.num_images), run.config.storage_options)
    return [object_of_row(row) for row in rows.to_pylist()]


def _is_read_through(image: SourceObject) -> bool:
    return image.location is not None and image.location.kind in ("tar", "parquet")


def _check_ok(sample: Sample) -> None:
    """Refuse to estimate from failures: a run of them would end with exit code 1."""
    if not sample.counts.num_by_status["ok"]:
        statuses = ", ".join(f"{count} {status}" for status, count in sample.counts.num_by_status.items())
        raise NothingSucceededError(
            f"no image of the sample is ok ({statuses}), so there is nothing to estimate from; annotate some of the "
            "images with --limit into another --output: their rows say why"
        )


def _bytes_out(sample: Sample, num_images: int) -> int | None:
    num_rows = sum(shard.file.num_rows for shard in sample.shards)
    num_bytes = sum(shard.file.size_bytes for shard in sample.shards)
    return round(num_images * num_bytes / num_rows) if num_rows else None
