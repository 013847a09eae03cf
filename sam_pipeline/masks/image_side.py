"""The image-token half of the fast mask decoder: what its passes compute, and how a CPU computes it.

Three passes over the image tokens of every prompt, between which `shared_decoder` updates the prompt's own tokens. Each
takes what the tokens of all prompts send to the image and returns what they look up there.

On a CPU the image tokens of a prompt should stay in the cache, so each thread works on one prompt, in tiles of tokens.

Legend: N prompts, T tokens a prompt, Q of them that are read in the end, C channels, H heads, D channels a head in the
attentions, K image tokens, h w rows and columns of the image embedding, M masks a prompt.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam_pipeline.model.layers import LayerNorm2d
from sam_pipeline.model.linear import linear
from sam_pipeline.model.sam import Sam
from sam_pipeline.model.two_way_transformer import TwoWayAttentionBlock

# Tiles of half a megabyte stay in the second-level cache of one core together with what is computed from them.
_TILE_TOKENS = 512
# Rows of the embedding upscaled at once, for the same reason: 4 rows become 256 x 16 pixels of 64 channels.
_TILE_ROWS = 4


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
        first, second = sam.mask_decoder.transformer.layers
        assert isinstance(first, TwoWayAttentionBlock), type(first)
        assert isinstance(second, TwoWayAttentionBlock), type(second)
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


class ImageSide(Protocol):
    """The passes, on some device. `state` is what one pass leaves for the next."""

    prompts_at_once: int
    """Prompts that are best given to one call."""
    max_tokens: float
    """T at most."""

    def update_first(
        self, shared: SharedTokens, key_scores: Tensor, values: Tensor, pulls: Tensor
    ) -> tuple[Any, Tensor]:
        """First layer, image to tokens, then the averages that the second layer's tokens ask for.

        Args:
            shared: of the image.
            key_scores: keys of the tokens over the root of D, (N, H * T, H * D), zero outside their head.
            values: their values after the output projection, (N, H * T, C).
            pulls: what the tokens of the second layer look for, (N, H * T, C).

        Returns:
            State; averages of the image tokens as the second layer's tokens weight them, (N, H * T, C).
        """
        ...

    def update_second(
        self, state: Any, pushes: Tensor, push_bias: Tensor, values: Tensor, pulls: Tensor
    ) -> tuple[Any, Tensor]:
        """Second layer, image to tokens, then the averages that the final attention asks for.

        Args:
            state: from `update_first`; not to be used again.
            pushes: keys of the tokens before the projection of queries, (N, H * T, C).
            push_bias: their products with the bias of that projection, (N, H * T).
            values: as in `update_first`.
            pulls: what some tokens, in the final attention, look for, (N, H * Q, C).

        Returns:
            State; averages of the image tokens as those tokens weight them, (N, H * Q, C).
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


class TiledImageSide:
    """The passes on a CPU: a prompt at a time, in tiles of tokens. See `ImageSide`."""

    prompts_at_once = 8
    """Their image tokens, 4 MB each, wait in the third-level cache while the token side catches up."""
    max_tokens = math.inf

    def __init__(self, weights: ImageSideWeights) -> None:
        self._weights = weights
        self._up1, self._up2 = weights.up1[0].T.contiguous(), weights.up2[0].T.contiguous()

    def update_first(
        self, shared: SharedTokens, key_scores: Tensor, values: Tensor, pulls: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See `ImageSide`; the state is the image tokens of each prompt, (N, K, C)."""
        norm, key_pe, H = self._weights.norms[0], self._weights.key_pe, self._weights.num_heads
        N, HT, HD = key_scores.shape
        # Eight small products cost a quarter of the one with the zeros.
        by_head = key_scores.view(N, H, HT // H, H, HD // H).diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2).contiguous()
        image_queries = shared.image_queries.view(-1, H, HD // H).permute(1, 2, 0).contiguous()
        state, scores = shared.keys.new_empty(N, *shared.keys.shape), pulls.new_empty(N, HT, len(shared.keys))
        for n in range(N):
            to_channels = values[n].T.contiguous()
            for tile in _tiles(len(shared.keys), _TILE_TOKENS):
                weights = (by_head[n] @ image_queries[:, :, tile]).softmax(dim=1).flatten(0, 1)  # (H * T, tile)
                summed = linear(weights.T, to_channels).add_(shared.keys[tile])
                keys = F.layer_norm(summed, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
                state[n, tile] = keys
                scores[n, :, tile] = linear(pulls[n], keys.add_(key_pe[tile]))
        return state, _averages(state, scores)

    def update_second(
        self, state: Tensor, pushes: Tensor, push_bias: Tensor, values: Tensor, pulls: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See `ImageSide`; overwrites the tokens."""
        norm, key_pe, H = self._weights.norms[1], self._weights.key_pe, self._weights.num_heads
        N, HQ, _ = pulls.shape
        scores = pulls.new_empty(N, HQ, len(key_pe))
        for n in range(N):
            to_channels = values[n].T.contiguous()
            for tile in _tiles(len(key_pe), _TILE_TOKENS):
                logits = linear(pushes[n], state[n, tile] + key_pe[tile]).add_(push_bias[n, :, None])  # (H * T, tile)
                weights = logits.view(H, -1, logits.shape[1]).softmax(dim=1).flatten(0, 1)
                summed = linear(weights.T, to_channels).add_(state[n, tile])
                keys = F.layer_norm(summed, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
                state[n, tile] = keys
                scores[n, :, tile] = linear(pulls[n], keys.add_(key_pe[tile]))
        return state, _averages(state, scores)

    def upscale(self, state: Tensor, hyper_in: Tensor, kept: Tensor, size: tuple[int, int], num_rows: int) -> Tensor:
        """See `ImageSide`."""
        worth = kept.any(dim=1).nonzero().flatten().tolist()
        masks = [self._upscale(state[n], hyper_in[n][kept[n]], size, num_rows) for n in worth]
        return torch.cat([hyper_in.new_empty((0, 4 * num_rows, 4 * size[1])), *masks])

    def _upscale(self, keys: Tensor, hyper_in: Tensor, size: tuple[int, int], num_rows: int) -> Tensor:
        """Mask logits of one prompt, (masks, 4 * num_rows, 4 * w), from keys (K, C) and hyper_in (masks, C / 8)."""
        up1_bias, up2_bias, norm = self._weights.up1[1], self._weights.up2[1], self._weights.up_norm
        w = size[1]
        channels, finest_channels = len(norm.weight), hyper_in.shape[1]
        logits = keys.new_empty(len(hyper_in), num_rows, 2, 2, w, 2, 2)  # masks, then row and column coarse to fine
        for rows in _tiles(num_rows, _TILE_ROWS):
            fine = linear(keys[rows.start * w : rows.stop * w], self._up1, up1_bias).view(-1, channels)
            fine = F.gelu(F.layer_norm(fine, (channels,), norm.weight, norm.bias, norm.eps))
            finest = F.gelu(linear(fine, self._up2, up2_bias)).view(-1, finest_channels)
            pixels = (hyper_in @ finest.T).view(len(hyper_in), -1, w, 2, 2, 2, 2)
            logits[:, rows] = pixels.permute(0, 1, 3, 5, 2, 4, 6)
        return logits.view(len(hyper_in), 4 * num_rows, 4 * w)


def _averages(state: Tensor, scores: Tensor) -> Tensor:
    """Image tokens (N, K, C) weighted by the softmax of scores (N, rows, K): (N, rows, C)."""
    weights = scores.softmax(dim=-1)
    return torch.stack([linear(weights[n], keys.T) for n, keys in enumerate(state)])


def _tiles(length: int, step: int) -> list[slice]:
    return [slice(first, min(first + step, length)) for first in range(0, length, step)]


def _pixel_product(conv: nn.ConvTranspose2d) -> tuple[Tensor, Tensor]:
    """A transposed convolution with kernel = stride = 2 as a matrix (C, 4 * out), and its bias (4 * out,).

    Columns are ordered by row and column of the 2 x 2 pixels, then by channel.
    """
    weight = conv.weight.detach().permute(0, 2, 3, 1)  # (C, 2, 2, out)
    assert conv.bias is not None, "SAM's transposed convolutions have one"
    return weight.flatten(1).contiguous(), conv.bias.detach().repeat(4)
