"""All settings of a plan, and all of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from sam_pipeline.config.base import Settings, check, check_amount, check_place
from sam_pipeline.config.inputs import InputConfig, SelectionConfig
from sam_pipeline.config.masks import MaskConfig
from sam_pipeline.config.model import ModelConfig
from sam_pipeline.config.pools import PoolConfig
from sam_pipeline.config.prompting import PromptConfig
from sam_pipeline.errors import ConfigError
from sam_pipeline.safety.storage_option_rules import check_storage_options

Mode = Literal["auto", "grid", "prompted", "both"]
ResolvedMode = Literal["grid", "prompted", "both"]


@dataclass(frozen=True, kw_only=True)
class PlanConfig(Settings):
    """Which images, and where the run lives."""

    output: str
    """Folder of the run: a local path or any URI that fsspec and delta-rs both reach (s3://, gs://, az://)."""
    extend: bool = False
    """Look at the input again: add what is new to a plan that exists, and say what has changed or is gone."""
    redo_changed: bool = False
    """With extend: annotate images again that have changed since they were planned."""
    replan: bool = False
    """Make the plan anew, with its prompts if any, as long as no image has a result."""
    storage_options: Mapping[str, Any] = field(default_factory=dict)
    """Options of fsspec for remote input and output, such as {"endpoint_url": "…"}; on the command line as JSON. No
    credentials: they come from the environment. AWS_ENDPOINT_URL is respected."""
    images: InputConfig = field(default_factory=InputConfig)
    selection: SelectionConfig = field(default_factory=SelectionConfig)
    prompting: PromptConfig = field(default_factory=PromptConfig)

    def __post_init__(self) -> None:
        """Raises ConfigError if output is empty, storage_options hold a credential, or settings clash."""
        super().__post_init__()
        check_place("output", self.output)
        check_storage_options(self.storage_options)
        if self.extend and self.images.input is None:
            raise ConfigError("extend looks at the input again: say which with --input")
        if self.extend and (self.selection.limit is not None or self.selection.sample is not None):
            raise ConfigError("extend adds all that is new: leave out limit and sample, which would choose anew")
        if self.replan and self.images.input is None:
            raise ConfigError("replan makes the plan anew: say which images with --input")
        if self.replan and self.extend:
            raise ConfigError("replan makes the plan anew and extend adds to it: give one of them")
        if self.redo_changed and not self.extend:
            raise ConfigError("redo_changed needs extend, which finds out what has changed")


@dataclass(frozen=True, kw_only=True)
class AnnotateConfig(PlanConfig):
    """Everything an annotation run is made of."""

    mode: Mode = "auto"
    """Masks of the grid, of prompts, or of both. auto: of the prompts where the run has any, else of the grid."""
    multimask_output: bool = False
    """Predict three masks for each prompt and keep the one with the highest predicted IoU; else predict one. Better for
    ambiguous prompts, such as a single point; a box is not ambiguous."""
    point_grid: str | None = None
    """JSON file of point prompts in place of points_per_side: [[x, y], …] as shares of width and height, or a list of
    such lists, one for the image and one for each crop layer."""
    max_pixels: int = 100_000_000
    """Images with more pixels than this, by their header, become rows with status too_large. Kinds that take more than
    ten bytes a pixel to decode (large WebP, CMYK or many-scan JPEG, run-length BMP) may do so with fewer."""
    commit_interval_s: float = 10.0
    """Seconds between commits of finished shards."""
    stall_timeout_s: float | None = None
    """Seconds without any progress after which the run fails, to be resumed. Default: 600, and on CPUs one second
    more for each prompt of an image."""
    image_timeout_s: float | None = None
    """Seconds that a worker may take to read an image, to encode a batch, or to find the masks of an image, else it is
    killed. The image is then tried alone; if it hangs again, it becomes a row with status worker_crashed. Default: a
    quarter of stall_timeout_s. Fetching an image may take as long, but at least 30 and at most 240 seconds."""
    worker_memory_gb: float | None = None
    """Gigabytes that a worker may allocate beside the model. An image that needs more becomes a row with status
    worker_crashed. Default: six tenths of the memory of the smallest machine."""
    max_restarts: int = 0
    """How often the run may start again by itself: after a stall, lost machines, storage that does not answer, or when
    Ray or a machine ends its process."""
    num_cpus: int | None = None
    """CPUs of a Ray that is started on this machine; refused where RAY_ADDRESS names a running cluster."""
    model: ModelConfig = field(default_factory=ModelConfig)
    masks: MaskConfig = field(default_factory=MaskConfig)
    pools: PoolConfig = field(default_factory=PoolConfig)

    def __post_init__(self) -> None:
        """Raises ConfigError naming the first setting that is out of range."""
        super().__post_init__()
        check_place("point_grid", self.point_grid)
        check(self.max_pixels > 0, "max_pixels", "above 0", self.max_pixels)
        for name in ("commit_interval_s", "stall_timeout_s", "image_timeout_s", "worker_memory_gb", "num_cpus"):
            check_amount(name, getattr(self, name))
        if self.mode == "grid" and self.prompting.prompts is not None:
            raise ConfigError("mode grid makes no use of prompts; leave out one of the two")
        if self.model.device == "cpu" and self.pools.gpus is not None:
            raise ConfigError("gpus asks for GPUs and device cpu uses none: leave out one of the two")
        check(self.max_restarts >= 0, "max_restarts", "at least 0", self.max_restarts)
