"""The names of segment_anything/modeling/common.py; see docs/porting.md."""

from sam_pipeline.model.networks.layers import LayerNorm2d, MLPBlock

__all__ = ["LayerNorm2d", "MLPBlock"]
