"""The last that a start settles, once it knows its cluster: the division, and the record that goes to every worker."""

from __future__ import annotations

import logging

from sam_pipeline.config import AnnotateConfig, MaskConfig, ModelConfig, ResolvedPrecision
from sam_pipeline.errors import ClusterError
from sam_pipeline.masks.geometry.crops import generate_crop_boxes
from sam_pipeline.masks.geometry.grids import build_all_layer_point_grids
from sam_pipeline.pipeline.job import Backend, Job, crops_per_image, generator_settings
from sam_pipeline.pipeline.machines.division_text import division_lines, expectation
from sam_pipeline.pipeline.machines.resources import Cluster, Resources, check_batch_fits, divide
from sam_pipeline.pipeline.machines.suitability import check_all_machines_see
from sam_pipeline.pipeline.plan import sample_images
from sam_pipeline.pipeline.prompt_plan import Targets
from sam_pipeline.pipeline.run import images_per_block
from sam_pipeline.pipeline.starting.planned_run import PlannedRun
from sam_pipeline.storage.inputs.disks import common_folder
from sam_pipeline.storage.inputs.fetching import find_probe
from sam_pipeline.storage.inputs.source_object import object_of_row
from sam_pipeline.storage.objects.filesystem import StorageOptions, join_uri
from sam_pipeline.storage.tables.plan import Plan, read_planned

_STALL_TIMEOUT_S = 600.0
# A batch that hangs is tried twice before its rows are dropped; the run must not stall first.
_TIMEOUTS_BEFORE_A_STALL = 4

# No worker needs as much, and one that runs away is stopped before it takes its machine down.
_WORKER_MEMORY_SHARE = 0.6

logger = logging.getLogger(__name__)


def prepare_job(run: PlannedRun, cluster: Cluster, backend: Backend) -> tuple[Job, Resources]:
    """Divide a cluster for a run, and settle what its workers need to know; all but the id of the results.

    Raises:
        ClusterError: the run does not fit into the cluster, or some machines do not see its files.
        InputError: no image can be read.
        StorageUnavailableError: storage did not answer.
    """
    config, plan, targets = run.config, run.plan, run.targets
    resources = divide(config.pools, config.model.device, config.model.model_type, cluster)
    if resources.device == "cpu" and config.model.device == config.model.precision == "auto" and run.began_on_gpus:
        raise ClusterError(
            "the run began on GPUs, and the cluster has none now: --gpus N waits for them, --device cpu goes on without"
        )
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
        images_folder=None if probe_uri is None else _images_folder(plan, config.storage_options),
        backend=backend,
    )
    return job, resources


def _images_folder(plan: Plan, options: StorageOptions) -> str | None:
    """See common_folder. Looks at the first, middle and last image of the plan, not at all of them."""
    image_ids = sorted({0, plan.num_images // 2, plan.num_images - 1})
    return common_folder(map(object_of_row, read_planned(plan.output, image_ids, options).to_pylist()))


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
