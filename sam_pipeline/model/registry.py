"""Building a Segment Anything model by the name of its type.

The sizes are those of segment_anything/build_sam.py and, for ``vit_t``, of MobileSAM's build_sam.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from sam_pipeline.model.checkpoints import canonical_model_type
from sam_pipeline.model.networks.image_encoder import ImageEncoderViT
from sam_pipeline.model.networks.tiny_vit import TinyViT
from sam_pipeline.model.sam import Sam, assemble_sam
from sam_pipeline.model.state_dicts import assign_state_dict, load_state_dict


class Builder(Protocol):
    """A value of ``sam_model_registry``."""

    def __call__(self, checkpoint: str | Path | None = None) -> Sam:
        """Build a model in eval mode; see ``build_sam``."""


def build_sam(model_type: str, checkpoint: str | Path | None = None) -> Sam:
    """Build a model in eval mode on the CPU.

    Args:
        model_type: vit_h, vit_l, vit_b, vit_t (MobileSAM), or default, which is vit_h.
        checkpoint: local file or Hugging Face folder of weights; ``resolve_checkpoint`` fetches one from a URI, or the
            official one. Without it the weights are random, as in the official package.

    Raises:
        ConfigError: no such model type.
        CheckpointError: the checkpoint cannot be read, or is of another architecture.
    """
    model_type = canonical_model_type(model_type)
    if checkpoint is None:
        return assemble_sam(_image_encoder(model_type)).eval()
    state_dict = load_state_dict(checkpoint)
    # On the meta device nothing is allocated or initialised: the checkpoint's tensors become the parameters.
    with torch.device("meta"), _WithoutRandomNumbers():
        sam = assemble_sam(_image_encoder(model_type))
    assign_state_dict(sam, state_dict, source=f"{checkpoint} as {model_type}")
    return sam.eval()


class _WithoutRandomNumbers(TorchFunctionMode):
    """Builds modules whose weights come from elsewhere.

    For a normal distribution on the meta device torch imports its compiler: 2 s, and 120 MB in every process.
    """

    def __torch_function__(
        self, func: Callable[..., Any], _: object, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Called by torch in place of each of its functions."""
        kwargs = kwargs or {}
        if func is nn.init.normal_:
            return kwargs["tensor"]
        return (torch.empty if func is torch.randn else func)(*args, **kwargs)


def _image_encoder(model_type: str) -> ImageEncoderViT | TinyViT:
    match model_type:
        case "vit_h":
            return ImageEncoderViT(embed_dim=1280, depth=32, num_heads=16, global_attn_indexes=(7, 15, 23, 31))
        case "vit_l":
            return ImageEncoderViT(embed_dim=1024, depth=24, num_heads=16, global_attn_indexes=(5, 11, 17, 23))
        case "vit_b":
            return ImageEncoderViT(embed_dim=768, depth=12, num_heads=12, global_attn_indexes=(2, 5, 8, 11))
        case _:
            assert model_type == "vit_t", model_type
            return TinyViT()


sam_model_registry: dict[str, Builder] = {
    model_type: partial(build_sam, model_type) for model_type in ("default", "vit_h", "vit_l", "vit_b", "vit_t")
}
"""Model type → builder, as in the official package: ``sam_model_registry["vit_b"](checkpoint=path)``."""
