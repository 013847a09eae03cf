"""`SamPredictor` where the official package has it: segment_anything/predictor.py; see docs/porting.md."""

from sam_pipeline.masks.predictor import SamPredictor

__all__ = ["SamPredictor"]
