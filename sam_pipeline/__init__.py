"""Dataset-scale Segment Anything masks: images in object storage in, Parquet shards of scored RLE masks out.

From Python: `annotate` runs or resumes, `open_run` reads what a run has stored, `decode_mask` gives a mask's pixels.
"""

import importlib
from typing import TYPE_CHECKING

from sam_pipeline.version import __version__ as __version__

if TYPE_CHECKING:
    from sam_pipeline.api import annotate, decode_mask, open_run
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
    from sam_pipeline.results.rows import DecodedMask, ImageMask, ImageRow, MaskDict, PromptError
    from sam_pipeline.run import Run

__all__ = [
    "AnnotateConfig",
    "DecodedMask",
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
    "SamPipelineError",
    "SelectionConfig",
    "annotate",
    "decode_mask",
    "draw_masks",
    "open_run",
]

_HOMES = {
    "sam_pipeline.api": ("annotate", "decode_mask", "open_run"),
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
    "sam_pipeline.drawing": ("draw_masks",),
    "sam_pipeline.errors": ("SamPipelineError",),
    "sam_pipeline.results.rows": ("DecodedMask", "ImageMask", "ImageRow", "MaskDict", "PromptError"),
    "sam_pipeline.run": ("Run",),
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
