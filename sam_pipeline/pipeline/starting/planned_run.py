"""A run once its plan, prompts, settings and weights are settled: before any cluster, and the same for each start."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import tenacity

from sam_pipeline.config import AnnotateConfig, ResolvedPrecision
from sam_pipeline.config.fingerprint import absolute_place, fingerprint, settings_of_run, stored_places
from sam_pipeline.errors import FingerprintMismatchError
from sam_pipeline.model.checkpoints import official_sha256, resolve_checkpoint, sha256_of
from sam_pipeline.pipeline.machines.suitability import check_cluster_suits
from sam_pipeline.pipeline.plan import ensure_plan
from sam_pipeline.pipeline.prompt_plan import Targets, resolve_targets
from sam_pipeline.pipeline.starting.restarts import ray_errors
from sam_pipeline.storage.objects.filesystem import absolute_uri
from sam_pipeline.storage.tables.plan import Plan, read_plan
from sam_pipeline.storage.tables.reading.run_header import RunHeader, check_fingerprint, read_header
from sam_pipeline.storage.tables.schema import SCHEMA_VERSION

logger = logging.getLogger(__name__)


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

    @property
    def began_on_gpus(self) -> bool:
        """Whether an earlier start, or an earlier attempt of this one, has chosen the precision of GPUs."""
        return self.before is not None and self.begun_with["precision"] != "fp32"

    def fingerprint(self, precision: ResolvedPrecision) -> dict[str, Any]:
        """What decides the values of its results."""
        return fingerprint(
            self.config,
            **self.targets.pinned,
            precision=precision,
            weights_sha256=self.weights_sha256,
            schema_version=SCHEMA_VERSION,
        )


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
    """Look at the cluster before anything that may take long; a finished run needs none."""
    if not _is_finished(config):
        with ray_errors():
            check_cluster_suits(config)


def _is_finished(config: AnnotateConfig) -> bool:
    """Whether nothing is left to do, and nothing new is asked for."""
    if config.extend or config.replan:
        return False
    output = absolute_uri(config.output)
    header = read_header(output, config.storage_options)
    plan = None if header is None else read_plan(output, config.storage_options)
    return header is not None and plan is not None and header.num_images == plan.num_images


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


def check_settings(run: PlannedRun) -> None:
    """Refuse a start whose settings are not those of the results that there are.

    Needs no cluster: hardware decides nothing but an automatic precision, and there it keeps what the run began with.

    Raises:
        FingerprintMismatchError: the results, finished or not, are of other settings.
    """
    if run.num_before:  # else nothing was computed, with whatever settings
        check_fingerprint(run.begun_with, run.fingerprint(precision_before(run)))


def precision_before(run: PlannedRun) -> ResolvedPrecision:
    """What a run with results computes in."""
    given = run.config.model.precision
    if given == "auto":
        precision: ResolvedPrecision = run.begun_with["precision"]
        return precision
    return given
