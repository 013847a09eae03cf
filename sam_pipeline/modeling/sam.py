"""The names of segment_anything/modeling/sam.py; see docs/porting.md."""

from sam_pipeline.model.sam import Sam

__all__ = ["Sam"]
