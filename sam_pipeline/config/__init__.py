"""Settings: frozen dataclasses, checked when they are made, one for each part that takes them.

Flags, TOML keys, keywords of `annotate` and stored metadata all use the names of the fields.
"""

from sam_pipeline.config.estimates import EstimateConfig, PriceConfig
from sam_pipeline.config.inputs import InputConfig, InputFormat, SelectionConfig
from sam_pipeline.config.masks import MaskConfig
from sam_pipeline.config.model import Device, ModelConfig, ModelType, Precision, ResolvedPrecision
from sam_pipeline.config.pools import PoolConfig
from sam_pipeline.config.prompting import BboxFormat, PromptConfig
from sam_pipeline.config.runs import AnnotateConfig, Mode, PlanConfig, ResolvedMode

__all__ = [
    "AnnotateConfig",
    "BboxFormat",
    "Device",
    "EstimateConfig",
    "InputConfig",
    "InputFormat",
    "MaskConfig",
    "Mode",
    "ModelConfig",
    "ModelType",
    "PlanConfig",
    "PoolConfig",
    "Precision",
    "PriceConfig",
    "PromptConfig",
    "ResolvedMode",
    "ResolvedPrecision",
    "SelectionConfig",
]
