"""The names of segment_anything/modeling/transformer.py; see docs/porting.md."""

from sam_pipeline.model.networks.two_way_transformer import Attention, TwoWayAttentionBlock, TwoWayTransformer

__all__ = ["Attention", "TwoWayAttentionBlock", "TwoWayTransformer"]
