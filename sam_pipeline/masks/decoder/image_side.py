"""The image-token half of the fast mask decoder: what its passes compute, and from what.

Three passes over the image tokens of every prompt, between which `shared_decoder` updates the prompt's own tokens. Each
takes what the tokens of all prompts send to the image and returns what they look up there.

Legend: N prompts, T tokens a prompt, Q of them that are read in the end, C channels, H heads, D channels a head in the
attentions, K image tokens, h w rows and columns of the image embedding, M masks a prompt.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn

from sam_pipeline.model.networks.layers import LayerNorm2d
from sam_pipeline.model.networks.two_way_transformer import Attention, TwoWayAttentionBlock
from sam_pipeline.model.sam import Sam


@dataclass(frozen=True)
class SharedTokens:
    """What all prompts of an image share."""

    keys: Tensor
    """Image tokens with the embedding of "no mask prompt", (K, C)."""
    size: tuple[int, int]
    """(h, w); K = h * w."""
    key_heads: Tensor
    """First layer, tokens to image: keys of each head, (H, K, D)."""
    value_heads: Tensor
    """Values of each head, (H, K, D)."""
    image_queries: Tensor
    """First layer, image to tokens: queries, (K, H * D)."""


@dataclass(frozen=True)
class ImageSideWeights:
    """Weights of the passes."""

    num_heads: int
    key_pe: Tensor
    """Positional encoding of the image tokens, (K, C)."""
    norms: tuple[nn.LayerNorm, nn.LayerNorm]
    """Of the image tokens, after each layer."""
    up1: tuple[Tensor, Tensor]
    """First transposed convolution as a matrix (C, 4 * C / 4) and its bias; see `_pixel_product`."""
    up_norm: LayerNorm2d
    up2: tuple[Tensor, Tensor]
    """Second one, (C / 4, 4 * C / 8)."""

    @staticmethod
    def of(sam: Sam) -> ImageSideWeights:
        """Read them from the networks."""
        first, second = decoder_layers(sam)
        up1, up_norm, _, up2, _ = sam.mask_decoder.output_upscaling
        assert isinstance(up1, nn.ConvTranspose2d), type(up1)
        assert isinstance(up_norm, LayerNorm2d), type(up_norm)
        assert isinstance(up2, nn.ConvTranspose2d), type(up2)
        return ImageSideWeights(
            num_heads=first.cross_attn_image_to_token.num_heads,
            key_pe=sam.prompt_encoder.get_dense_pe().detach()[0].flatten(1).T.contiguous(),
            norms=(first.norm4, second.norm4),
            up1=_pixel_product(up1),
            up_norm=up_norm,
            up2=_pixel_product(up2),
        )


class ImageSideAttentions(NamedTuple):
    """The attentions that the passes are one side of."""

    first_to_tokens: Attention
    """First layer, image to tokens."""
    second_to_image: Attention
    """Second layer, tokens to image."""
    second_to_tokens: Attention
    """Second layer, image to tokens."""
    final_to_image: Attention
    """The last attention, tokens to image."""

    @staticmethod
    def of(sam: Sam) -> ImageSideAttentions:
        """Take them from the networks."""
        first, second = decoder_layers(sam)
        return ImageSideAttentions(
            first.cross_attn_image_to_token,
            second.cross_attn_token_to_image,
            second.cross_attn_image_to_token,
            sam.mask_decoder.transformer.final_attn_token_to_image,
        )


class ImageSide(Protocol):
    """The passes, on some device. `shared` is what `share` gives, `state` what one pass leaves for the next."""

    prompts_at_once: int
    """Prompts that are best given to one call."""
    max_tokens: float
    """T at most."""

    def share(self, tokens: SharedTokens) -> Any:
        """Compute what all prompts of an image share beside the tokens themselves."""
        ...

    def update_first(self, shared: Any, keys: Tensor, values: Tensor, queries: Tensor) -> tuple[Any, Tensor]:
        """First layer, image to tokens, then what the second layer's tokens ask the image for.

        Args:
            shared: of the image.
            keys: projected from the tokens, (N, T, H * D).
            values: projected from the tokens, (N, T, H * D).
            queries: projected from the tokens of the second layer, (N, T, H * D).

        Returns:
            State; attended values before the output projection, (N, T, H * D).
        """
        ...

    def update_second(self, state: Any, keys: Tensor, values: Tensor, queries: Tensor) -> tuple[Any, Tensor]:
        """Second layer, image to tokens, then what some tokens ask the image for in the last attention.

        Args:
            state: from `update_first`; not to be used again.
            keys: projected from the tokens, (N, T, H * D).
            values: projected from the tokens, (N, T, H * D).
            queries: projected from the tokens that are read in the end, (N, Q, H * D).

        Returns:
            State; attended values before the output projection, (N, Q, H * D).
        """
        ...

    def upscale(self, state: Any, hyper_in: Tensor, kept: Tensor, size: tuple[int, int], num_rows: int) -> Tensor:
        """Mask logits of the masks that are worth it.

        Args:
            state: from `update_second`.
            hyper_in: products of the hypernetworks, (N, M, C / 8).
            kept: which masks to compute, (N, M) bool.
            size: (h, w).
            num_rows: rows of the image embedding to upscale.

        Returns:
            (kept, 4 * num_rows, 4 * w), in the order of prompts, then masks.
        """
        ...


def decoder_layers(sam: Sam) -> tuple[TwoWayAttentionBlock, TwoWayAttentionBlock]:
    """The two layers of the mask decoder's transformer."""
    first, second = sam.mask_decoder.transformer.layers
    assert isinstance(first, TwoWayAttentionBlock), type(first)
    assert isinstance(second, TwoWayAttentionBlock), type(second)
    return first, second


def score_root(attn: Attention) -> float:
    """What scores are divided by."""
    return math.sqrt(attn.q_proj.out_features // attn.num_heads)


def _pixel_product(conv: nn.ConvTranspose2d) -> tuple[Tensor, Tensor]:
    """A transposed convolution with kernel = stride = 2 as a matrix (C, 4 * out), and its bias (4 * out,).

    Columns are ordered by row and column of the 2 x 2 pixels, then by channel.
    """
    weight = conv.weight.detach().permute(0, 2, 3, 1)  # (C, 2, 2, out)
    assert conv.bias is not None, "SAM's transposed convolutions have one"
    return weight.flatten(1).contiguous(), conv.bias.detach().repeat(4)
