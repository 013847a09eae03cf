"""The names of segment_anything/modeling/image_encoder.py; see docs/porting.md."""

from sam_pipeline.model.networks.image_encoder import ImageEncoderViT

__all__ = ["ImageEncoderViT"]
