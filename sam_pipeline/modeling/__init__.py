"""The networks where the official package has them: segment_anything/modeling/; see docs/porting.md."""

from sam_pipeline.modeling.image_encoder import ImageEncoderViT
from sam_pipeline.modeling.mask_decoder import MaskDecoder
from sam_pipeline.modeling.prompt_encoder import PromptEncoder
from sam_pipeline.modeling.sam import Sam
from sam_pipeline.modeling.transformer import TwoWayTransformer

__all__ = ["ImageEncoderViT", "MaskDecoder", "PromptEncoder", "Sam", "TwoWayTransformer"]
