"""The names of segment_anything/utils/onnx.py; see docs/onnx.md."""

from sam_pipeline.model.onnx_model import SamOnnxModel

__all__ = ["SamOnnxModel"]
