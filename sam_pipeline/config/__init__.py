"""Settings: frozen dataclasses, validated when made. Flags, TOML keys and stored metadata all use these field names."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from sam_pipeline.config.base import Settings
from sam_pipeline.errors import ConfigError
from sam_pipeline.safety.storage_option_rules import check_storage_options

ModelType = Literal["default", "vit_h", "vit_l", "vit_b", "vit_t"]
Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "fp32", "bf16"]
InputFormat = Literal["auto", "files", "manifest", "parquet", "webdataset", "zip", "coco"]
BboxFormat = Literal["xywh", "xyxy"]
Mode = Literal["auto", "grid", "prompted", "both"]
ResolvedPrecision = Literal["fp32", "bf16"]
ResolvedMode = Literal["grid", "prompted", "both"]

PREPROCESSING_VERSION = 3
"""Raised whenever decoding, orientation or resizing of images changes the pixels that the encoder sees."""


_MOST = 1_000_000_000


def _check_amount(name: str, value: float | None) -> None:
    """Refuse what is not above 0, and what clocks and counters do not hold; None is a default."""
    _check(value is None or value > 0, name, "above 0", value)
    _check(value is None or value <= _MOST, name, f"at most {_MOST}", value)


def _check(ok: bool, name: str, requirement: str, value: object) -> None:
    if not ok:
        raise ConfigError(f"{name} must be {requirement}, got {value!r}")


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Settings):
    """Which network, which weights, where it runs."""

    model_type: ModelType = "default"
    """SAM architecture; default is vit_h, vit_t is MobileSAM."""
    checkpoint: str | None = None
    """Path or fsspec URI of the weights (official .pth or Hugging Face safetensors). Default: the official file for
    the model type, fetched once into the cache and verified."""
    device: Device = "auto"
    """Where the networks run; auto takes CUDA when the cluster has GPUs."""
    precision: Precision = "auto"
    """Arithmetic of the image encoder and, on CUDA, of the image tokens in the mask decoder: auto is bf16 on CUDA and
    fp32 on CPU. Prompt tokens, predicted IoU and mask logits are always fp32."""


@dataclass(frozen=True, kw_only=True)
class MaskConfig(Settings):
    """Settings of the automatic mask generator; names and defaults are those of the official generator."""

    points_per_side: int = 32
    """Points along one side of the prompt grid; points_per_side**2 prompts an image."""
    points_per_batch: int = 64
    """Prompts decoded at once on a CPU; a GPU takes all prompts of a crop. The masks are the same."""
    pred_iou_thresh: float = 0.88
    """Keep masks whose predicted IoU is above this; 0 keeps all."""
    stability_score_thresh: float = 0.95
    """Keep masks whose stability score is at least this; 0 keeps all."""
    stability_score_offset: float = 1.0
    """Shift of the mask threshold, in logits, when the stability score is computed."""
    box_nms_thresh: float = 0.7
    """Box IoU above which non-maximum suppression drops the lower-scoring mask of a crop."""
    crop_n_layers: int = 0
    """Layers of image crops to run in addition to the whole image; layer i has (2**i)**2 crops."""
    crop_nms_thresh: float = 0.7
    """Box IoU above which non-maximum suppression between crops drops the mask of the larger crop."""
    crop_overlap_ratio: float = 512 / 1500
    """Overlap of the crops of the first layer, as a share of the image's shorter side."""
    crop_n_points_downscale_factor: int = 1
    """points_per_side is divided by this**i in crop layer i."""
    min_mask_region_area: int = 0
    """Remove holes and islands smaller than this many pixels; 0 leaves masks as they are."""

    def __post_init__(self) -> None:
        """Raises ConfigError naming the first setting that is out of range."""
        super().__post_init__()
        for name in ("points_per_side", "points_per_batch", "crop_n_points_downscale_factor"):
            _check(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        for name in ("crop_n_layers", "min_mask_region_area", "stability_score_offset"):
            _check(getattr(self, name) >= 0, name, "at least 0", getattr(self, name))
        _check(
            math.isfinite(self.stability_score_offset), "stability_score_offset", "finite", self.stability_score_offset
        )
        # Predicted IoU is a regression and may exceed 1, but official users' thresholds lie in [0, 1].
        for name in ("pred_iou_thresh", "stability_score_thresh", "box_nms_thresh", "crop_nms_thresh"):
            _check(0 <= getattr(self, name) <= 1, name, "in [0, 1]", getattr(self, name))
        _check(0 <= self.crop_overlap_ratio < 1, "crop_overlap_ratio", "in [0, 1)", self.crop_overlap_ratio)
        points = self.points_per_side
        _check(points <= 1024, "points_per_side", "at most 1024 (a million prompts)", points)
        _check(self.crop_n_layers <= 4, "crop_n_layers", "at most 4 (341 crops an image)", self.crop_n_layers)
        finest = self.points_per_side // self.crop_n_points_downscale_factor**self.crop_n_layers
        _check(
            finest >= 1,
            "points_per_side",
            f"at least crop_n_points_downscale_factor**crop_n_layers = "
            f"{self.crop_n_points_downscale_factor**self.crop_n_layers}",
            self.points_per_side,
        )


@dataclass(frozen=True, kw_only=True)
class PoolConfig(Settings):
    """How the cluster is divided. Everything left out is worked out from the CPUs and GPUs that Ray reports."""

    encode_actors: int | None = None
    """Image encoder actors."""
    decode_actors: int | None = None
    """Mask decoder actors."""
    encode_batch_size: int | None = None
    """Images, or crops of them, that go through the encoder at once; 16 on a GPU, 1 on CPUs, where nothing is gained by
    waiting for more."""
    encode_cpus: float | None = None
    """CPUs that one encoder actor reserves."""
    decode_cpus: float | None = None
    """CPUs that one decoder actor reserves."""
    encode_gpus: float | None = None
    """GPUs, or a share of one, that one encoder actor reserves."""
    decode_gpus: float | None = None
    """GPUs, or a share of one, that one decoder actor reserves."""
    read_cpus: float | None = None
    """CPUs that one reading task reserves."""
    threads: int | None = None
    """Torch threads of an actor that computes on CPUs."""
    shard_rows: int | None = None
    """Images a committed shard; 256 with GPUs, 4 on CPUs, so that a kill costs minutes of work in both cases."""

    def __post_init__(self) -> None:
        """Raises ConfigError naming the first setting that is out of range."""
        super().__post_init__()
        for item in dataclasses.fields(self):
            _check_amount(item.name, getattr(self, item.name))


@dataclass(frozen=True, kw_only=True)
class PlanConfig(Settings):
    """Which images, and where the run lives."""

    output: str
    """Folder of the run: a local path or any URI that fsspec and delta-rs both reach (s3://, gs://, az://)."""
    input: str | None = None
    """Folder or prefix, glob in quotes (* ? [] stand for parts of one name, ** for any folders), or single file; a
    local path or any fsspec URI. Hidden folders below it are passed over. May be left out once there is a plan."""
    input_format: InputFormat = "auto"
    """What the input is: images (files), a manifest of URIs (Parquet, CSV, TSV, JSON Lines, text), parquet with image
    bytes, webdataset tar archives, zip archives, or a coco annotation file. auto goes by the suffix, for a folder by
    what it holds, for Parquet by the columns; of files without a suffix it knows images alone."""
    input_column: str | None = None
    """Column of a manifest with the URIs, or of Parquet files with the images. Default: the only one that can be, by
    name, type and first values."""
    image_root: str | None = None
    """Folder or prefix that relative names in a manifest or annotation file start from. Default: where that file is."""
    keep: tuple[str, ...] = ()
    """Further columns of a manifest or Parquet file, or files of a WebDataset sample (json, cls; up to 1 MiB), to keep
    with each image: they come with its result, in the column extra."""
    include: tuple[str, ...] = ()
    """Only images whose URI, or the end of it, matches one of these patterns: '*.png', 'train/*.jpg', 'train/**'. As in
    the input, * ? [] stand for parts of one name and ** for any folders."""
    exclude: tuple[str, ...] = ()
    """No images whose URI, or the end of it, matches one of these patterns."""
    limit: int | None = None
    """Only the first so many images, in the order of their URIs."""
    sample: int | None = None
    """Only so many images, chosen at random by seed."""
    seed: int = 0
    """Of sample."""
    allow_http: bool = False
    """Fetch images from http and https URIs that a manifest or annotation file names."""
    extend: bool = False
    """Look at the input again: add what is new to a plan that exists, and say what has changed or is gone."""
    redo_changed: bool = False
    """With extend: annotate images again that have changed since they were planned."""
    replan: bool = False
    """Make the plan anew, with its prompts if any, as long as no image has a result."""
    prompts: str | None = None
    """Boxes or points to make masks of: COCO results or annotations (.json), Parquet or JSON Lines with bbox, score,
    category_id, point_coords, point_labels, mask_input, or a folder of YOLO labels. The image is named by uri, url,
    image_uri, image_path, path, file_name, image, key or image_id, the first there is. Frozen with the plan."""
    prompt_images: str | None = None
    """COCO file whose `images` say which file_name each image_id of the prompts and regions stands for."""
    bbox_format: BboxFormat = "xywh"
    """What bbox holds in prompts and regions: x, y, width, height as in COCO, or two corners, xyxy; in pixels of the
    image after its EXIF orientation."""
    min_score: float | None = None
    """Prompts with a lower score are left out."""
    regions: str | None = None
    """Regions of interest that the grid of an image is limited to: a file as for prompts, with bbox or polygon. Images
    that it does not name keep the whole grid."""
    storage_options: Mapping[str, Any] = field(default_factory=dict)
    """Options of fsspec for remote input and output, such as {"endpoint_url": "…"}; on the command line as JSON. No
    credentials: they come from the environment. AWS_ENDPOINT_URL is respected."""

    def __post_init__(self) -> None:
        """Raises ConfigError if a setting is out of range, storage_options hold a credential, or settings clash."""
        super().__post_init__()
        for name in ("output", "input", "image_root", "prompts", "prompt_images", "regions"):
            value = getattr(self, name)
            _check(value is None or bool(value.strip()), name, "a path or URI", value)
        check_storage_options(self.storage_options)
        for name in ("limit", "sample"):
            value = getattr(self, name)
            _check(value is None or value > 0, name, "above 0", value)
        _check(self.seed >= 0, "seed", "at least 0", self.seed)
        _check(self.min_score is None or math.isfinite(self.min_score), "min_score", "a number", self.min_score)
        if self.limit is not None and self.sample is not None:
            raise ConfigError("limit takes the first images and sample takes some at random: give one of them")
        if self.extend and self.input is None:
            raise ConfigError("extend looks at the input again: say which with --input")
        if self.extend and (self.limit is not None or self.sample is not None):
            raise ConfigError("extend adds all that is new: leave out limit and sample, which would choose anew")
        if self.replan and self.input is None:
            raise ConfigError("replan makes the plan anew: say which images with --input")
        if self.replan and self.extend:
            raise ConfigError("replan makes the plan anew and extend adds to it: give one of them")
        if self.min_score is not None and self.prompts is None:
            raise ConfigError("min_score chooses among prompts: say which with --prompts")
        if self.bbox_format != "xywh" and self.prompts is None and self.regions is None:
            raise ConfigError("bbox_format says how prompts are read: say which with --prompts or --regions")
        if self.prompt_images is not None and self.prompts is None and self.regions is None:
            raise ConfigError("prompt_images names the images of prompts: say which with --prompts")
        if self.redo_changed and not self.extend:
            raise ConfigError("redo_changed needs extend, which finds out what has changed")


@dataclass(frozen=True, kw_only=True)
class AnnotateConfig(PlanConfig):
    """Everything an annotation run is made of."""

    mode: Mode = "auto"
    """Masks of the grid, of prompts, or of both. auto: of the prompts where the run has any, else of the grid."""
    multimask_output: bool = False
    """Choose the best of three masks for each prompt, by predicted IoU, rather than take the one made for prompts that
    say enough. Better for single points; boxes say enough."""
    point_grid: str | None = None
    """JSON file of point prompts in place of points_per_side: [[x, y], …] as shares of width and height, or a list of
    such lists, one for the image and one for each crop layer."""
    max_pixels: int = 100_000_000
    """Images whose header announces more pixels than this become rows with status too_large; so do some with fewer, of
    kinds that take more than ten bytes a pixel to decode (large WebP, CMYK or many-scan JPEG, run-length BMP)."""
    commit_interval_s: float = 10.0
    """Seconds between commits of finished shards."""
    stall_timeout_s: float | None = None
    """Seconds without any progress after which the run fails, to be resumed. Default: 600, and on CPUs one second
    more for each prompt of an image."""
    image_timeout_s: float | None = None
    """Seconds after which an image that hangs in a stage costs its worker its life; tried alone at last, it becomes a
    row with status worker_crashed. Default: a quarter of stall_timeout_s."""
    worker_memory_gb: float | None = None
    """Gigabytes of its own that a worker may take beside the model; an image for which that is not enough becomes such
    a row. Default: six tenths of the smallest machine."""
    max_restarts: int = 0
    """Times in all that the run starts again by itself: after a stall, lost machines, storage that does not answer, or
    when Ray or a machine ends its process."""
    num_cpus: int | None = None
    """CPUs for a Ray started on this machine; not for a cluster that is there already (RAY_ADDRESS)."""
    model: ModelConfig = field(default_factory=ModelConfig)
    masks: MaskConfig = field(default_factory=MaskConfig)
    pools: PoolConfig = field(default_factory=PoolConfig)

    def __post_init__(self) -> None:
        """Raises ConfigError naming the first setting that is out of range."""
        super().__post_init__()
        for name, value in (("point_grid", self.point_grid), ("checkpoint", self.model.checkpoint)):
            _check(value is None or bool(value.strip()), name, "a path or URI", value)
        _check(self.max_pixels > 0, "max_pixels", "above 0", self.max_pixels)
        for name in ("commit_interval_s", "stall_timeout_s", "image_timeout_s", "worker_memory_gb", "num_cpus"):
            _check_amount(name, getattr(self, name))
        if self.mode == "grid" and self.prompts is not None:
            raise ConfigError("mode grid makes no use of prompts; leave out one of the two")
        _check(self.max_restarts >= 0, "max_restarts", "at least 0", self.max_restarts)
