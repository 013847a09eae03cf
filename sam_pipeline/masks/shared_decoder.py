"""The mask decoder for many prompts of one image, with everything that the prompts share computed once.

The same result as model/mask_decoder.py and model/two_way_transformer.py up to rounding, for a third of the arithmetic
and without a copy of the image tokens for every prompt:

- The first layer sees the same image tokens for every prompt: what it projects from them is computed once an image.
- Later layers never project image tokens. T tokens of 8 heads are 8 T vectors, fewer than the channels of a
  projection: scores are keys · (W_k^T q), and values are averaged before they are projected. A bias of the keys drops
  out of a softmax over keys, and a bias of the values adds up to itself, since weights sum to one.
- Predicted IoU needs the tokens alone, so the masks of prompts that fail are never upscaled.
- Transposed convolutions whose stride is their kernel are matrix products of single pixels, done for the rows that
  hold the image; the padding below is attended but never upscaled.

On a CPU the image tokens of a prompt should stay in the cache, so each thread works on one prompt, in tiles of tokens,
while the token side, hundreds of small matrices, is done for many prompts at once.

Legend: N prompts, T tokens a prompt (5 of the decoder and those of the prompt), C channels, H heads, D channels a head,
K image tokens, h w rows and columns of the image embedding, M masks a prompt.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam_pipeline.masks.prediction import decode_prompts
from sam_pipeline.model.layers import LayerNorm2d
from sam_pipeline.model.sam import Sam
from sam_pipeline.model.two_way_transformer import Attention, TwoWayAttentionBlock

# Tiles of half a megabyte stay in the second-level cache of one core together with what is computed from them.
_TILE_TOKENS = 512
# Rows of the embedding upscaled at once, for the same reason: 4 rows become 256 x 16 pixels of 64 channels.
_TILE_ROWS = 4
# Image tokens of this many prompts wait in the third-level cache (4 MB each) while the token side catches up.
_PROMPTS_AT_ONCE = 8

Result = TypeVar("Result")


@dataclass(frozen=True)
class SharedTokens:
    """What all prompts of an image share."""

    keys: Tensor
    """Image tokens with the embedding of "no mask prompt", (K, C)."""
    size: tuple[int, int]
    """(h, w); K = h * w."""
    key_heads: Tensor
    """First layer, tokens to image: keys of each head, (H, D, K)."""
    value_heads: Tensor
    """Values of each head, (H, K, D)."""
    image_queries: Tensor
    """First layer, image to tokens: queries, (K, H * D)."""


@dataclass(frozen=True)
class DecodedPrompts:
    """Masks of prompts that were worth upscaling."""

    iou_predictions: Tensor
    """(N, M)."""
    kept: Tensor
    """(N, M) bool: which masks were upscaled."""
    low_res_masks: Tensor
    """Logits of those, (kept, 4 * rows, 4 * w), in the order of prompts, then masks."""


class SharedDecoder:
    """The multimask decoder of a model, for point and box prompts.

    Args:
        sam: the networks, in float32, in evaluation mode, on the device to use. Weights are read when this is made.
    """

    def __init__(self, sam: Sam) -> None:
        decoder = sam.mask_decoder
        self._decoder = decoder
        self._prompt_encoder = sam.prompt_encoder
        first, second = decoder.transformer.layers
        assert isinstance(first, TwoWayAttentionBlock), type(first)
        assert isinstance(second, TwoWayAttentionBlock), type(second)
        self._first, self._second = first, second
        self._final = decoder.transformer.final_attn_token_to_image
        self._final_norm = decoder.transformer.norm_final_attn
        self._no_mask = sam.prompt_encoder.no_mask_embed.weight.detach()
        pe = sam.prompt_encoder.get_dense_pe().detach()[0]
        self._key_pe = pe.flatten(1).T.contiguous()  # (K, C)
        up1, up_norm, _, up2, _ = decoder.output_upscaling
        assert isinstance(up1, nn.ConvTranspose2d), type(up1)
        assert isinstance(up_norm, LayerNorm2d), type(up_norm)
        assert isinstance(up2, nn.ConvTranspose2d), type(up2)
        self._up_norm = up_norm
        self._up1, self._up1_bias = _pixel_product(up1)
        self._up2, self._up2_bias = _pixel_product(up2)
        on_cpu = pe.device.type == "cpu"
        self._threads = torch.get_num_threads() if on_cpu else 1
        self._tile = _TILE_TOKENS if on_cpu else len(self._key_pe)
        self._pool = _one_thread_each(self._threads) if self._threads > 1 else None

    def share(self, image_embedding: Tensor) -> SharedTokens:
        """Compute what all prompts of an image share, from its embedding, (1, C, h, w) float32."""
        keys = (image_embedding[0].flatten(1).T + self._no_mask).contiguous()
        to_image, to_tokens = self._first.cross_attn_token_to_image, self._first.cross_attn_image_to_token
        with_pe = keys + self._key_pe
        return SharedTokens(
            keys=keys,
            size=(image_embedding.shape[2], image_embedding.shape[3]),
            key_heads=_heads(to_image.k_proj(with_pe), to_image).permute(1, 2, 0).contiguous(),
            value_heads=_heads(to_image.v_proj(keys), to_image).transpose(0, 1).contiguous(),
            image_queries=to_tokens.q_proj(with_pe),
        )

    def decode(
        self,
        shared: SharedTokens,
        points: tuple[Tensor, Tensor],
        wanted: Callable[[Tensor], Tensor],
        num_rows: int,
    ) -> DecodedPrompts:
        """Decode prompts of an image.

        Args:
            shared: from `share`.
            points: coordinates (N, P, 2) in pixels, model input frame, and labels (N, P).
            wanted: which masks to upscale, (n, M) predicted IoU → (n, M) bool, for some of the prompts at a time.
            num_rows: rows of the embedding to upscale; those below hold only padding.
        """
        sparse_prompt_embeddings, _ = self._prompt_encoder(points=points, boxes=None, masks=None)
        parts = [
            self._decode_some(shared, sparse, wanted, num_rows)
            for sparse in sparse_prompt_embeddings.split(_PROMPTS_AT_ONCE * max(1, self._threads // 2))
        ]
        return DecodedPrompts(
            torch.cat([part.iou_predictions for part in parts]),
            torch.cat([part.kept for part in parts]),
            torch.cat([part.low_res_masks for part in parts]),
        )

    def _decode_some(
        self, shared: SharedTokens, sparse: Tensor, wanted: Callable[[Tensor], Tensor], num_rows: int
    ) -> DecodedPrompts:
        decoder, first, second, final = self._decoder, self._first, self._second, self._final
        own_tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
        pe = torch.cat([own_tokens.expand(len(sparse), -1, -1), sparse], dim=1)  # (N, T, C): tokens are their own pe

        queries = first.norm1(first.self_attn(q=pe, k=pe, v=pe))
        attended = self._attend_shared_keys(shared, first.cross_attn_token_to_image.q_proj(queries + pe))
        queries = first.norm2(queries + first.cross_attn_token_to_image.out_proj(attended))
        queries = first.norm3(queries + first.mlp(queries))
        image_side = first.cross_attn_image_to_token
        key_scores = _block_diagonal(image_side.k_proj(queries + pe) / _root(image_side), image_side)
        values = _projected_values(image_side, queries)

        with_pe = queries + pe
        queries = second.norm1(queries + second.self_attn(q=with_pe, k=with_pe, v=queries))
        token_side = second.cross_attn_token_to_image
        pulls = _absorb(token_side.q_proj(queries + pe), token_side.k_proj, token_side)
        updated = self._map(
            lambda n: self._update_first(shared, key_scores[n], values[n], pulls[n]), range(len(sparse))
        )
        queries = second.norm2(queries + _project_averages(token_side, torch.stack([mean for _, mean in updated])))
        queries = second.norm3(queries + second.mlp(queries))

        image_side = second.cross_attn_image_to_token
        keys = image_side.k_proj(queries + pe)
        pushes = _absorb(keys, image_side.q_proj, image_side)
        push_bias = (_heads(keys, image_side) * _heads(image_side.q_proj.bias, image_side)).sum(-1) / _root(image_side)
        push_bias = push_bias.transpose(1, 2).flatten(1)  # (N, H * T)
        values = _projected_values(image_side, queries)
        pulls = _absorb(final.q_proj(queries + pe), final.k_proj, final)
        updated = self._map(
            lambda n: self._update_second(updated[n][0], pushes[n], push_bias[n], values[n], pulls[n]),
            range(len(sparse)),
        )
        queries = self._final_norm(queries + _project_averages(final, torch.stack([mean for _, mean in updated])))

        iou_predictions = decoder.iou_prediction_head(queries[:, 0])[:, 1:]  # the first is for single masks
        kept = wanted(iou_predictions)
        heads = decoder.output_hypernetworks_mlps
        hyper_in = torch.stack([head(queries[:, 1 + m]) for m, head in enumerate(heads) if m > 0], dim=1)  # (N, M, C/8)
        worth = kept.any(dim=1).nonzero().flatten().tolist()
        masks = self._map(lambda n: self._upscale(updated[n][0], hyper_in[n][kept[n]], shared.size, num_rows), worth)
        nothing = queries.new_empty((0, 4 * num_rows, 4 * shared.size[1]))
        return DecodedPrompts(iou_predictions, kept, torch.cat([nothing, *masks]))

    def _attend_shared_keys(self, shared: SharedTokens, q: Tensor) -> Tensor:
        """First layer, tokens to image: q (N, T, H * D) → (N, T, H * D), a head at a time to bound the scores."""
        attn = self._first.cross_attn_token_to_image
        by_head = (_heads(q, attn) / _root(attn)).flatten(0, 1).transpose(0, 1)  # (H, N * T, D)
        out = [
            (by_head[head] @ shared.key_heads[head]).softmax(dim=-1) @ shared.value_heads[head]
            for head in range(len(by_head))
        ]
        return torch.stack(out, dim=1).view(q.shape)

    def _update_first(
        self, shared: SharedTokens, key_scores: Tensor, values: Tensor, pulls: Tensor
    ) -> tuple[Tensor, Tensor]:
        """First layer, image to tokens, and the second layer's averages, of one prompt.

        Args:
            shared: see there.
            key_scores: keys of the tokens, (H * T, H * D), zero outside their head.
            values: their values after the output projection, (H * T, C).
            pulls: what the tokens of the second layer look for, (H * T, C).

        Returns:
            Image tokens (K, C), and their averages as the second layer's tokens weight them (H * T, C).
        """
        norm, H = self._first.norm4, self._first.cross_attn_image_to_token.num_heads
        keys = torch.empty_like(shared.keys)
        scores = keys.new_empty(len(pulls), len(keys))
        for tile in self._tiles():
            weights = (key_scores @ shared.image_queries[tile].T).view(H, -1, len(shared.keys[tile])).softmax(dim=1)
            summed = torch.addmm(shared.keys[tile], weights.flatten(0, 1).T, values)
            keys[tile] = updated = F.layer_norm(summed, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
            scores[:, tile] = pulls @ updated.add_(self._key_pe[tile]).T
        return keys, scores.softmax(dim=-1) @ keys

    def _update_second(
        self, keys: Tensor, pushes: Tensor, push_bias: Tensor, values: Tensor, pulls: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Second layer, image to tokens, and the final attention's averages, of one prompt.

        Args:
            keys: (K, C); overwritten.
            pushes: keys of the tokens before the projection of queries, (H * T, C).
            push_bias: their products with the bias of that projection, (H * T,).
            values: as in `_update_first`.
            pulls: what the tokens of the final attention look for, (H * T, C).

        Returns:
            Image tokens (K, C), and their averages as the final attention's tokens weight them (H * T, C).
        """
        norm, H = self._second.norm4, self._second.cross_attn_image_to_token.num_heads
        scores = keys.new_empty(len(pulls), len(keys))
        for tile in self._tiles():
            with_pe = keys[tile] + self._key_pe[tile]
            weights = torch.addmm(push_bias[:, None], pushes, with_pe.T).view(H, -1, len(with_pe)).softmax(dim=1)
            summed = torch.addmm(keys[tile], weights.flatten(0, 1).T, values)
            keys[tile] = updated = F.layer_norm(summed, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
            scores[:, tile] = pulls @ updated.add_(self._key_pe[tile]).T
        return keys, scores.softmax(dim=-1) @ keys

    def _upscale(self, keys: Tensor, hyper_in: Tensor, size: tuple[int, int], num_rows: int) -> Tensor:
        """Mask logits of one prompt, (masks, 4 * num_rows, 4 * w), from keys (K, C) and hyper_in (masks, C / 8)."""
        w = size[1]
        logits = keys.new_empty(len(hyper_in), num_rows, 2, 2, w, 2, 2)  # masks, then row and column coarse to fine
        for top in range(0, num_rows, _TILE_ROWS):
            bottom = min(top + _TILE_ROWS, num_rows)
            fine = torch.addmm(self._up1_bias, keys[top * w : bottom * w], self._up1).view(-1, len(self._up2))
            norm = self._up_norm
            fine = F.gelu(F.layer_norm(fine, (len(self._up2),), norm.weight, norm.bias, norm.eps))
            finest = F.gelu(torch.addmm(self._up2_bias, fine, self._up2)).view(-1, hyper_in.shape[1])
            pixels = (finest @ hyper_in.T).view(bottom - top, w, 2, 2, 2, 2, len(hyper_in))
            logits[:, top:bottom] = pixels.permute(6, 0, 2, 4, 1, 3, 5)
        return logits.view(len(hyper_in), 4 * num_rows, 4 * w)

    def _tiles(self) -> Iterable[slice]:
        return [slice(first, first + self._tile) for first in range(0, len(self._key_pe), self._tile)]

    def _map(self, function: Callable[[int], Result], items: Iterable[int]) -> list[Result]:
        if self._pool is None:
            return [function(item) for item in items]
        return list(self._pool.map(torch.inference_mode()(function), items))


def _one_thread_each(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "mask-decoder", initializer=torch.set_num_threads, initargs=(1,))


def _pixel_product(conv: nn.ConvTranspose2d) -> tuple[Tensor, Tensor]:
    """A transposed convolution with kernel = stride = 2 as a matrix (C, 4 * out), and its bias (4 * out,).

    Columns are ordered by row and column of the 2 x 2 pixels, then by channel.
    """
    weight = conv.weight.detach().permute(0, 2, 3, 1)  # (C, 2, 2, out)
    assert conv.bias is not None, "SAM's transposed convolutions have one"
    return weight.flatten(1).contiguous(), conv.bias.detach().repeat(4)


def _root(attn: Attention) -> float:
    """What scores are divided by."""
    return math.sqrt(attn.q_proj.out_features // attn.num_heads)


def _heads(x: Tensor, attn: Attention) -> Tensor:
    """(..., H * D) → (..., H, D)."""
    return x.view(*x.shape[:-1], attn.num_heads, -1)


def _absorb(x: Tensor, projection: nn.Linear, attn: Attention) -> Tensor:
    """Vectors whose products with image tokens are the scores of x with their projections.

    Args:
        x: queries or keys of the tokens, (N, T, H * D).
        projection: of the image tokens, without its bias.
        attn: the attention of both.

    Returns:
        (N, H * T, C).
    """
    weight = projection.weight.view(attn.num_heads, -1, projection.in_features)  # (H, D, C)
    return torch.einsum("nthd,hdc->nhtc", _heads(x, attn) / _root(attn), weight).flatten(1, 2)


def _project_averages(attn: Attention, averages: Tensor) -> Tensor:
    """Value and output projection of averaged image tokens, (N, H * T, C) → (N, T, C)."""
    weight = attn.v_proj.weight.view(attn.num_heads, -1, attn.v_proj.in_features)  # (H, D, C)
    by_head = averages.view(len(averages), attn.num_heads, -1, averages.shape[-1])  # (N, H, T, C)
    values = torch.einsum("nhtc,hdc->nthd", by_head, weight).flatten(2) + attn.v_proj.bias
    projected: Tensor = attn.out_proj(values)
    return projected


def _projected_values(attn: Attention, queries: Tensor) -> Tensor:
    """Values of the tokens after the output projection, a share of its bias with each head, (N, H * T, C)."""
    weight = attn.out_proj.weight.T.reshape(attn.num_heads, -1, attn.out_proj.out_features)  # (H, D, C)
    by_head = torch.einsum("nthd,hdc->nhtc", _heads(attn.v_proj(queries), attn), weight)
    return (by_head + attn.out_proj.bias / attn.num_heads).flatten(1, 2)


def _block_diagonal(x: Tensor, attn: Attention) -> Tensor:
    """(N, T, H * D) → (N, H * T, H * D), each row zero outside its head: one product instead of one a head."""
    N, T, _ = x.shape
    by_head = _heads(x, attn)  # (N, T, H, D)
    blocks = x.new_zeros(N, attn.num_heads, T, attn.num_heads, by_head.shape[-1])
    for head in range(attn.num_heads):
        blocks[:, head, :, head] = by_head[:, :, head]
    return blocks.view(N, attn.num_heads * T, -1)


class PlainDecoder:
    """The networks as they are, behind the interface of `SharedDecoder`: the readable reference."""

    def __init__(self, sam: Sam) -> None:
        self._sam = sam

    def share(self, image_embedding: Tensor) -> Tensor:
        """Nothing is computed ahead."""
        return image_embedding

    def decode(
        self,
        shared: Tensor,
        points: tuple[Tensor, Tensor],
        wanted: Callable[[Tensor], Tensor],
        num_rows: int,
    ) -> DecodedPrompts:
        """Decode prompts of an image; see `SharedDecoder.decode`."""
        low_res_masks, iou_predictions = decode_prompts(self._sam, shared, points)
        kept = wanted(iou_predictions)
        return DecodedPrompts(iou_predictions, kept, low_res_masks[kept][:, : 4 * num_rows])
