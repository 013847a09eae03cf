"""Settings of the command amg: those of the official script, and one more."""

from __future__ import annotations

from dataclasses import dataclass, field

from sam_pipeline.config import MaskConfig, ModelType
from sam_pipeline.config.base import Settings, check_place
from sam_pipeline.errors import ConfigError

MAX_PIXELS = 100_000_000
"""Pixels of one image; as annotate has it."""


@dataclass(frozen=True, kw_only=True)
class AmgModelConfig(Settings):
    """Which network, which weights, where it runs."""

    model_type: ModelType = "default"
    """SAM architecture; default is vit_h, vit_t is MobileSAM."""
    checkpoint: str | None = None
    """Path or URI of the weights. Default: the official file of the model type, fetched once into the cache. The
    official script must be given one."""
    device: str = "auto"
    """Where the networks run: cpu, cuda, cuda:1 or another name of torch's; auto takes CUDA where there is a GPU."""

    def __post_init__(self) -> None:
        """Raises ConfigError if the checkpoint is empty."""
        super().__post_init__()
        check_place("checkpoint", self.checkpoint)


@dataclass(frozen=True, kw_only=True)
class AmgConfig(Settings):
    """Which images, and what becomes of them."""

    input: str
    """An image, or a folder with images; folders in it are left out."""
    output: str
    """Folder to write to. Each image gets a folder of its name without suffix, with 0.png, 1.png, ... (255 in the mask,
    0 beside it) and metadata.csv."""
    convert_to_rle: bool = False
    """Write NAME.json instead, a list of masks with COCO's RLE."""
    overwrite: bool = False
    """Replace what amg wrote before, where an image has results already; any other file stays."""
    model: AmgModelConfig = field(default_factory=AmgModelConfig)
    masks: MaskConfig = field(default_factory=MaskConfig)

    def __post_init__(self) -> None:
        """Raises ConfigError if a place is empty or not of this machine."""
        super().__post_init__()
        for name in ("input", "output"):
            place = getattr(self, name)
            check_place(name, place)
            if "://" in place:
                raise ConfigError(f"amg reads and writes local files, so {name} cannot be {place}; annotate takes URIs")
