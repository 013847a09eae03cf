"""The names of segment_anything/modeling/mask_decoder.py; see docs/porting.md."""

from sam_pipeline.model.networks.layers import MLP
from sam_pipeline.model.networks.mask_decoder import MaskDecoder

__all__ = ["MLP", "MaskDecoder"]
