"""The names of segment_anything/utils/transforms.py; see docs/porting.md."""

from sam_pipeline.masks.geometry.transforms import ResizeLongestSide

__all__ = ["ResizeLongestSide"]
