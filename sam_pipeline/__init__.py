"""Dataset-scale Segment Anything masks: images in object storage in, Parquet shards of scored RLE masks out.

From Python: `annotate` runs or resumes, `estimate` says before what that would take, `open_run` reads what a run has
stored, `decode_mask` gives a mask's pixels.
Scripts for `segment_anything` run once their imports name this package; docs/porting.md says how.
"""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING

from sam_pipeline.version import __version__ as __version__

if TYPE_CHECKING:
    from sam_pipeline.api import annotate, decode_mask, estimate, open_run
    from sam_pipeline.automatic_mask_generator import SamAutomaticMaskGenerator
    from sam_pipeline.build_sam import (
        build_sam,
        build_sam_vit_b,
        build_sam_vit_h,
        build_sam_vit_l,
        build_sam_vit_t,
        sam_model_registry,
    )
    from sam_pipeline.config import (
        AnnotateConfig,
        InputConfig,
        MaskConfig,
        ModelConfig,
        PlanConfig,
        PoolConfig,
        PromptConfig,
        SelectionConfig,
    )
    from sam_pipeline.drawing import draw_masks
    from sam_pipeline.errors import SamPipelineError
    from sam_pipeline.pipeline.estimating.figures import Estimate
    from sam_pipeline.predictor import SamPredictor
    from sam_pipeline.results.rows import DecodedMask, ImageMask, ImageRow, MaskDict, PromptError
    from sam_pipeline.run.run import Run

__all__ = [
    "AnnotateConfig",
    "DecodedMask",
    "Estimate",
    "ImageMask",
    "ImageRow",
    "InputConfig",
    "MaskConfig",
    "MaskDict",
    "ModelConfig",
    "PlanConfig",
    "PoolConfig",
    "PromptConfig",
    "PromptError",
    "Run",
    "SamAutomaticMaskGenerator",
    "SamPipelineError",
    "SamPredictor",
    "SelectionConfig",
    "annotate",
    "build_sam",
    "build_sam_vit_b",
    "build_sam_vit_h",
    "build_sam_vit_l",
    "build_sam_vit_t",
    "decode_mask",
    "draw_masks",
    "estimate",
    "open_run",
    "sam_model_registry",
]

_HOMES = {
    "sam_pipeline.api": ("annotate", "decode_mask", "estimate", "open_run"),
    "sam_pipeline.config": (
        "AnnotateConfig",
        "InputConfig",
        "MaskConfig",
        "ModelConfig",
        "PlanConfig",
        "PoolConfig",
        "PromptConfig",
        "SelectionConfig",
    ),
    "sam_pipeline.automatic_mask_generator": ("SamAutomaticMaskGenerator",),
    "sam_pipeline.build_sam": (
        "build_sam_vit_b",
        "build_sam_vit_h",
        "build_sam_vit_l",
        "build_sam_vit_t",
        "sam_model_registry",
    ),
    "sam_pipeline.drawing": ("draw_masks",),
    "sam_pipeline.errors": ("SamPipelineError",),
    "sam_pipeline.pipeline.estimating.figures": ("Estimate",),
    "sam_pipeline.predictor": ("SamPredictor",),
    "sam_pipeline.results.rows": ("DecodedMask", "ImageMask", "ImageRow", "MaskDict", "PromptError"),
    "sam_pipeline.run.run": ("Run",),
}

# Workers and the command line import this package too, and must not pay for what they do not use. Type checkers see
# the imports above instead, so that they still refuse a name that does not exist.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        for home, names in _HOMES.items():
            if name in names:
                return getattr(importlib.import_module(home), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})

    class _Package(ModuleType):
        """This package, whose `build_sam` is the function, as in the official one, and never the module beside it."""

        @property
        def build_sam(self) -> object:
            return importlib.import_module("sam_pipeline.build_sam").build_sam

        @build_sam.setter
        def build_sam(self, module: ModuleType) -> None:
            """What Python does after it has imported the module: `sys.modules` has it, which is enough."""

    sys.modules[__name__].__class__ = _Package
