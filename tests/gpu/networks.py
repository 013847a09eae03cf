"""Networks of full size with random weights, from modules that need nothing but torch."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn

from sam_pipeline.model.networks.image_encoder import ImageEncoderViT
from sam_pipeline.model.networks.mask_decoder import MaskDecoder
from sam_pipeline.model.networks.prompt_encoder import PromptEncoder
from sam_pipeline.model.networks.tiny_vit import TinyViT
from sam_pipeline.model.networks.two_way_transformer import TwoWayTransformer
from sam_pipeline.model.sam import Sam
from tests.random_weights import randomise

IMG_SIZE = 1024


class NoEncoder(nn.Module):
    img_size = IMG_SIZE


@cache
def random_sam(device: str) -> Sam:
    """A SAM without an image encoder."""
    return sam_around(NoEncoder()).to(device)


def sam_around(image_encoder: nn.Module) -> Sam:
    """A SAM with random weights, also of its image encoder."""
    transformer = TwoWayTransformer(depth=2, embedding_dim=256, num_heads=8, mlp_dim=2048)
    sam = Sam(
        image_encoder,
        PromptEncoder(256, (IMG_SIZE // 16, IMG_SIZE // 16), (IMG_SIZE, IMG_SIZE), mask_in_chans=16),
        MaskDecoder(transformer_dim=256, transformer=transformer),
    )
    randomise(sam)
    return sam.eval()


def shallow_encoder(model_type: str) -> ImageEncoderViT | TinyViT:
    """An image encoder as wide as that of a model: two blocks of a ViT, one with windows and one without; or vit_t."""
    if model_type == "vit_t":
        return TinyViT()
    widths = {"vit_h": (1280, 16), "vit_l": (1024, 16), "vit_b": (768, 12), "narrow": (32, 2)}
    embed_dim, num_heads = widths[model_type]
    return ImageEncoderViT(IMG_SIZE, embed_dim=embed_dim, depth=2, num_heads=num_heads, global_attn_indexes=(1,))


def random_embedding(device: str) -> Tensor:
    return torch.randn(1, 256, 64, 64, generator=torch.Generator().manual_seed(1)).to(device)


def grid_of_points(points_per_side: int, device: str) -> tuple[Tensor, Tensor]:
    """Points of the generator's grid, (N, 1, 2) float64 in pixels, and their labels, (N, 1)."""
    steps = (torch.arange(points_per_side, dtype=torch.float64, device=device) + 0.5) / points_per_side * IMG_SIZE
    points = torch.cartesian_prod(steps, steps)[:, None]
    return points, torch.ones(len(points), 1, dtype=torch.int, device=device)
