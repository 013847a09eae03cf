"""Models by the official names and signatures: `from sam_pipeline.build_sam import build_sam_vit_h`.

The port of segment_anything/build_sam.py; docs/porting.md says what differs.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from sam_pipeline.model import registry
from sam_pipeline.model.sam import Sam

Checkpoint = str | os.PathLike[str] | None


def build_sam_vit_h(checkpoint: Checkpoint = None) -> Sam:
    """Build a ViT-H model in evaluation mode on the CPU.

    Args:
        checkpoint: local file or Hugging Face folder of weights; without it the weights are random.

    Raises:
        CheckpointError: the checkpoint cannot be read, or is of another architecture.
    """
    return _build("vit_h", checkpoint)


build_sam = build_sam_vit_h


def build_sam_vit_l(checkpoint: Checkpoint = None) -> Sam:
    """Build a ViT-L model; see `build_sam_vit_h`."""
    return _build("vit_l", checkpoint)


def build_sam_vit_b(checkpoint: Checkpoint = None) -> Sam:
    """Build a ViT-B model; see `build_sam_vit_h`."""
    return _build("vit_b", checkpoint)


def build_sam_vit_t(checkpoint: Checkpoint = None) -> Sam:
    """Build MobileSAM's model, which the official package does not have; see `build_sam_vit_h`."""
    return _build("vit_t", checkpoint)


sam_model_registry: dict[str, Callable[..., Sam]] = {
    "default": build_sam,
    "vit_h": build_sam,
    "vit_l": build_sam_vit_l,
    "vit_b": build_sam_vit_b,
    "vit_t": build_sam_vit_t,
}
"""Model type → builder: `sam_model_registry["vit_b"](checkpoint=path)`."""


def _build(model_type: str, checkpoint: Checkpoint) -> Sam:
    sam = registry.build_sam(model_type, None if checkpoint is None else os.fspath(checkpoint))
    if checkpoint is not None:
        # Weights are mapped from their file. Scripts that train save to the file that they loaded, which would end
        # this process; so each tensor gets memory of its own.
        for tensor in (*sam.parameters(), *sam.buffers()):
            tensor.data = tensor.data.clone()
    return sam
