"""Which network masks come from, and what computes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sam_pipeline.config.base import Settings, check_place

ModelType = Literal["default", "vit_h", "vit_l", "vit_b", "vit_t"]
Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "fp32", "fp16", "bf16"]
ResolvedPrecision = Literal["fp32", "fp16", "bf16"]


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Settings):
    """Which network, which weights, where it runs."""

    model_type: ModelType = "default"
    """SAM architecture; default is vit_h, vit_t is MobileSAM."""
    checkpoint: str | None = None
    """Path or URI of the weights (official .pth or Hugging Face safetensors). Default: the official file for
    the model type, fetched once into the cache and verified."""
    device: Device = "auto"
    """Where the networks run; auto takes CUDA when the cluster has GPUs. Ray gives each process its GPU; with
    CUDA_VISIBLE_DEVICES=1 a local cluster has the second one alone."""
    precision: Precision = "auto"
    """Arithmetic of the image encoder and, on CUDA, of the image tokens in the mask decoder: auto is fp16 on CUDA and
    fp32 on CPU. Prompt tokens, predicted IoU and mask logits are always fp32. bf16 should be as fast as fp16, and is
    coarser; an image that exceeds the range of fp16 in the encoder is encoded again in fp32."""

    def __post_init__(self) -> None:
        """Raises ConfigError if the checkpoint is empty."""
        super().__post_init__()
        check_place("checkpoint", self.checkpoint)
