"""A SAM of full size with random weights and no image encoder, from modules that need nothing but torch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sam_pipeline.model.mask_decoder import MaskDecoder
from sam_pipeline.model.prompt_encoder import PromptEncoder
from sam_pipeline.model.sam import Sam
from sam_pipeline.model.two_way_transformer import TwoWayTransformer

IMG_SIZE = 1024


class NoEncoder(nn.Module):
    img_size = IMG_SIZE


def random_sam(device: str) -> Sam:
    transformer = TwoWayTransformer(depth=2, embedding_dim=256, num_heads=8, mlp_dim=2048)
    sam = Sam(
        NoEncoder(),
        PromptEncoder(256, (IMG_SIZE // 16, IMG_SIZE // 16), (IMG_SIZE, IMG_SIZE), mask_in_chans=16),
        MaskDecoder(transformer_dim=256, transformer=transformer),
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in sam.state_dict().items():
            if value.ndim == 1 and name.endswith("weight"):
                value.normal_(1, 0.2, generator=generator)
            elif value.ndim >= 2 and "embed" not in name and "token.weight" not in name and "tokens" not in name:
                value.normal_(0, value[0].numel() ** -0.5, generator=generator)
            else:
                value.normal_(0, 0.3, generator=generator)
    return sam.eval().to(device)


def random_embedding(device: str) -> Tensor:
    return torch.randn(1, 256, 64, 64, generator=torch.Generator().manual_seed(1)).to(device)


def grid_of_points(points_per_side: int, device: str) -> tuple[Tensor, Tensor]:
    """Points of the generator's grid, (N, 1, 2) float64 in pixels, and their labels, (N, 1)."""
    steps = (torch.arange(points_per_side, dtype=torch.float64, device=device) + 0.5) / points_per_side * IMG_SIZE
    points = torch.cartesian_prod(steps, steps)[:, None]
    return points, torch.ones(len(points), 1, dtype=torch.int, device=device)
