"""Random weights that show an error anywhere; needs nothing but torch."""

from __future__ import annotations

import re

import torch
from torch import nn


def randomise(module: nn.Module, seed: int = 0) -> None:
    """Fill every parameter and stored buffer with seeded random values, none of them zero or one by default.

    Scales keep activations of order one through many layers, so that an error anywhere shows at the end.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if not value.is_floating_point():  # a batch norm's count of batches; unused in eval mode
                continue
            if name.endswith("running_var"):
                value.uniform_(0.5, 1.5, generator=generator)
            elif name.endswith(("rel_pos_h", "rel_pos_w")) or "positional_encoding" in name:
                value.normal_(0, 0.3, generator=generator)
            elif (
                value.ndim >= 2
                and name.endswith("weight")
                and not re.search(r"_embed\.weight|point_embeddings|iou_token|mask_tokens", name)
            ):
                value.normal_(0, value[0].numel() ** -0.5, generator=generator)
            elif name.endswith("weight") and value.ndim == 1:
                value.normal_(1, 0.2, generator=generator)
            else:
                value.normal_(0, 0.3, generator=generator)
