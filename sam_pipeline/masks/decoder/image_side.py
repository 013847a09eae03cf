"""The image side of the two-way transformer: what it computes for many prompts of one image, and from what.

The two-way transformer updates image tokens and prompt tokens in turn. `shared_decoder` updates the tokens of the
prompts; an `ImageSide` updates their image tokens and attends to them. docs/decoder.md derives how. "Tokens" alone are
those of a prompt.

Legend: N prompts, T tokens a prompt, Q of them that the output heads read, C channels, H heads, D channels a head in
the attentions, K image tokens, h w rows and columns of the image embedding, M masks a prompt.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

from torch import Tensor, nn

from sam_pipeline.model.networks.layers import LayerNorm2d
from sam_pipeline.model.networks.two_way_transformer import Attention, TwoWayAttentionBlock
from sam_pipeline.model.sam import Sam

Shared = TypeVar("Shared")
AfterFirst = TypeVar("AfterFirst")
AfterSecond = TypeVar("AfterSecond")


@dataclass(frozen=True)
class SharedTokens:
    """What all prompts of an image share."""

    image_tokens: Tensor
    """Image embedding plus the embedding of "no mask prompt", (K, C)."""
    size: tuple[int, int]
    """(h, w); K = h * w."""
    keys: Tensor
    """First layer, tokens to image: keys of each head, (H, K, D)."""
    values: Tensor
    """Values of each head, (H, K, D)."""
    image_queries: Tensor
    """First layer, image to tokens: queries of each head, (H, K, D)."""


@dataclass(frozen=True)
class ImageSideWeights:
    """Weights of the image side."""

    num_heads: int
    attentions: ImageSideAttentions
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
            attentions=ImageSideAttentions.of(sam),
            key_pe=sam.prompt_encoder.get_dense_pe().detach()[0].flatten(1).T.contiguous(),
            norms=(first.norm4, second.norm4),
            up1=_pixel_product(up1),
            up_norm=up_norm,
            up2=_pixel_product(up2),
        )


class ImageSideAttentions(NamedTuple):
    """The cross-attentions between the image tokens of a prompt and its tokens."""

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


class ImageSide(Protocol[Shared, AfterFirst, AfterSecond]):
    """The image side on some device: `share` once an image; then for some prompts the other three, one after another.

    The type variables are what `share` returns, and the states after the first and after the second layer.
    """

    prompts_at_once: int
    """Prompts that are best given to one call."""
    max_tokens: float
    """T at most."""

    def share(self, tokens: SharedTokens) -> Shared:
        """Compute what all prompts of an image share beside the tokens themselves."""
        ...

    def update_first(self, shared: Shared, keys: Tensor, values: Tensor, queries: Tensor) -> tuple[AfterFirst, Tensor]:
        """First layer, image to tokens; then the second layer's attention from the tokens to the image.

        Args:
            shared: of the image.
            keys: projected from the tokens, (N, T, H * D).
            values: projected from the tokens, (N, T, H * D).
            queries: projected from the tokens of the second layer, (N, T, H * D).

        Returns:
            State; attended values before the output projection, (N, T, H * D).
        """
        ...

    def update_second(
        self, state: AfterFirst, keys: Tensor, values: Tensor, queries: Tensor
    ) -> tuple[AfterSecond, Tensor]:
        """Second layer, image to tokens; then the final attention from some tokens to the image.

        Args:
            state: from `update_first`; not to be used again.
            keys: projected from the tokens, (N, T, H * D).
            values: projected from the tokens, (N, T, H * D).
            queries: projected from the tokens that the output heads read, (N, Q, H * D).

        Returns:
            State; attended values before the output projection, (N, Q, H * D).
        """
        ...

    def upscale(
        self, state: AfterSecond, hyper_in: Tensor, keep_mask: Tensor, size: tuple[int, int], num_rows: int
    ) -> Tensor:
        """Logits of the masks to keep.

        Args:
            state: from `update_second`.
            hyper_in: outputs of the hypernetworks, (N, M, C / 8).
            keep_mask: which masks to compute, (N, M) bool.
            size: (h, w).
            num_rows: rows of the image embedding to upscale.

        Returns:
            (masks, 4 * num_rows, 4 * w) float32, in the order of prompts, then masks.
        """
        ...


def decoder_layers(sam: Sam) -> tuple[TwoWayAttentionBlock, TwoWayAttentionBlock]:
    """The two layers of the mask decoder's transformer."""
    first, second = sam.mask_decoder.transformer.layers
    assert isinstance(first, TwoWayAttentionBlock), type(first)
    assert isinstance(second, TwoWayAttentionBlock), type(second)
    return first, second


def score_root(attn: Attention) -> float:
    """The root of D, by which attention scores are divided."""
    return math.sqrt(attn.q_proj.out_features // attn.num_heads)


def _pixel_product(conv: nn.ConvTranspose2d) -> tuple[Tensor, Tensor]:
    """A transposed convolution with kernel = stride = 2 as a matrix (C, 4 * out), and its bias (4 * out,).

    Columns are ordered by row and column of the 2 x 2 pixels, then by channel.
    """
    weight = conv.weight.detach().permute(0, 2, 3, 1)  # (C, 2, 2, out)
    assert conv.bias is not None, "SAM's transposed convolutions have one"
    return weight.flatten(1).contiguous(), conv.bias.detach().repeat(4)
