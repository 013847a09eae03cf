"""The names of segment_anything/modeling/prompt_encoder.py; see docs/porting.md."""

from sam_pipeline.model.networks.prompt_encoder import PositionEmbeddingRandom, PromptEncoder

__all__ = ["PositionEmbeddingRandom", "PromptEncoder"]
