"""Every setting as a keyword of `annotate` and `estimate`, for type checkers; `sam_pipeline.config` explains them."""

import os
from collections.abc import Mapping
from typing import Any, Required, TypedDict

from sam_pipeline.config import BboxFormat, Device, InputFormat, Mode, ModelType, Precision

StrPath = str | os.PathLike[str]


class AnnotateSettings(TypedDict, total=False):
    """The settings of AnnotateConfig, and of what is nested in it, by name."""

    output: Required[StrPath]
    extend: bool
    redo_changed: bool
    replan: bool
    storage_options: Mapping[str, Any]
    input: StrPath | None
    input_format: InputFormat
    input_column: str | None
    image_root: StrPath | None
    keep: list[str] | tuple[str, ...]
    allow_http: bool
    include: list[str] | tuple[str, ...]
    exclude: list[str] | tuple[str, ...]
    limit: int | None
    sample: int | None
    seed: int
    prompts: StrPath | None
    prompt_images: StrPath | None
    bbox_format: BboxFormat
    min_score: float | None
    regions: StrPath | None
    mode: Mode
    multimask_output: bool
    point_grid: StrPath | None
    max_pixels: int
    commit_interval_s: float
    stall_timeout_s: float | None
    image_timeout_s: float | None
    worker_memory_gb: float | None
    max_restarts: int
    num_cpus: int | None
    model_type: ModelType
    checkpoint: StrPath | None
    device: Device
    precision: Precision
    points_per_side: int
    points_per_batch: int
    pred_iou_thresh: float
    stability_score_thresh: float
    stability_score_offset: float
    box_nms_thresh: float
    crop_n_layers: int
    crop_nms_thresh: float
    crop_overlap_ratio: float
    crop_n_points_downscale_factor: int
    min_mask_region_area: int
    gpus: int | None
    min_gpus: int | None
    gpu_wait_s: float
    encode_on: str | None
    decode_on: str | None
    encode_actors: int | None
    decode_actors: int | None
    encode_batch_size: int | None
    encode_cpus: float | None
    decode_cpus: float | None
    encode_gpus: float | None
    decode_gpus: float | None
    read_cpus: float | None
    threads: int | None
    shard_rows: int | None


class EstimateSettings(AnnotateSettings, total=False):
    """The settings of EstimateConfig: those of AnnotateConfig, and prices."""

    price_node_hour: float | None
    price_put_1000: float | None
    price_get_1000: float | None
    price_gb_month: float | None
