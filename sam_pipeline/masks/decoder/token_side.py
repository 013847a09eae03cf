"""The token side of the two-way transformer: how the tokens of many prompts are updated together.

Everything that the tokens of a prompt need beside what `image_side` computes, in three steps before, between and after
its two. Linear maps of the same input are one product, with their weights below each other. See docs/decoder.md,
"Tokens". Legend: N prompts, T tokens a prompt, Q of them that the output heads read, C channels, H heads, D channels a
head, M masks a prompt.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from sam_pipeline.masks.decoder.image_side import SharedTokens, decoder_layers
from sam_pipeline.model.networks.layers import MLPBlock
from sam_pipeline.model.networks.linear import linear
from sam_pipeline.model.networks.two_way_transformer import Attention
from sam_pipeline.model.sam import Sam

# All but cuDNN's, which torch tries first on Hopper since 2.11: for each new shape it plans for up to a second, and the
# number of prompts is another from image to image.
_ATTENTION_BACKENDS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]

Points = tuple[Tensor, Tensor]
"""Coordinates (N, P, 2) in pixels, model input frame, and labels (N, P)."""


class ToImage(NamedTuple):
    """Tokens that wait for the image side, and what it needs of them."""

    tokens: Tensor
    """(N, T, C); before the final attention those that the heads read, (N, Q, C)."""
    keys: Tensor
    """For the image tokens, (N, T, H * D); like the next two perhaps a part of a wider product."""
    values: Tensor
    """(N, T, H * D)."""
    queries: Tensor
    """Queries to the image tokens, (N, T, H * D) or (N, Q, H * D)."""


class Read(NamedTuple):
    """Which tokens the heads read, and which of their outputs are wanted."""

    tokens: slice
    """Of the tokens of a prompt: Q."""
    iou: int
    """The IoU token among those."""
    masks: slice
    """The tokens of the wanted masks among those."""
    slots: slice
    """The wanted masks among all that the decoder can predict."""
    num_masks: int
    """M."""


def has_heads_alike(sam: Sam) -> bool:
    """Whether the IoU head is as the heads of masks but for its last layer; it is in all of SAM's models."""
    heads = [sam.mask_decoder.iou_prediction_head, *sam.mask_decoder.output_hypernetworks_mlps]
    shapes = {tuple(layer.weight.shape for layer in head.layers[:-1]) for head in heads}
    return len(shapes) == 1


class TokenSide:
    """Updates tokens by torch, on any device; in float32 but for the first attention to the image.

    Args:
        sam: the networks. Weights are read when this is made.
        dtype: of the operands of the first attention to the image.
    """

    def __init__(self, sam: Sam, dtype: torch.dtype) -> None:
        self._decoder, self._prompt_encoder, self._dtype = sam.mask_decoder, sam.prompt_encoder, dtype
        self._first, self._second = first, second = decoder_layers(sam)
        self._final = final = sam.mask_decoder.transformer.final_attn_token_to_image
        self._final_norm = sam.mask_decoder.transformer.norm_final_attn
        # Attention ignores the order of tokens. In this order, those that the heads read are adjacent.
        iou_token, mask_tokens = sam.mask_decoder.iou_token.weight, sam.mask_decoder.mask_tokens.weight
        self._own_tokens = torch.cat([mask_tokens[:1], iou_token, mask_tokens[1:]]).detach()
        attend, to_tokens = first.self_attn, first.cross_attn_image_to_token
        self._first_attention = below_each_other(attend.q_proj, attend.k_proj, attend.v_proj)
        attend = second.self_attn
        self._first_keys = below_each_other(to_tokens.k_proj, attend.q_proj, attend.k_proj)
        self._first_values = below_each_other(to_tokens.v_proj, attend.v_proj)
        to_tokens = second.cross_attn_image_to_token
        self._second_keys = below_each_other(to_tokens.k_proj, final.q_proj)

    def read(self, multimask_output: bool) -> Read:
        """For an ambiguous prompt all masks but the first, else the first, whose token comes before the IoU token."""
        if multimask_output:
            num_masks = self._decoder.num_mask_tokens - 1
            return Read(slice(1, 2 + num_masks), 0, masks=slice(1, None), slots=slice(1, None), num_masks=num_masks)
        return Read(slice(0, 2), 1, masks=slice(0, 1), slots=slice(0, 1), num_masks=1)

    def embed(self, points: Points | None, boxes: Tensor | None) -> Tensor:
        """The tokens of prompts before the first layer, which are also their own positions.

        Args:
            points: of each prompt.
            boxes: (N, 4) xyxy, model input frame.

        Returns:
            (N, T, C): those of the decoder, points, a padding point if there are no boxes, corners of boxes.

        Raises:
            ValueError: shapes of points and boxes are not these.
        """
        sparse, _ = self._prompt_encoder(points=points, boxes=boxes, masks=None)
        return torch.cat([self._own_tokens.expand(len(sparse), -1, -1), sparse], dim=1)

    def first(self, pe: Tensor, image: SharedTokens) -> ToImage:
        """The first layer, and the second one's self-attention.

        Args:
            pe: from `embed`.
            image: of the image.

        Returns:
            Keys and values of the first layer, queries of the second.
        """
        layer, width = self._first, self._first.cross_attn_image_to_token.internal_dim
        q, k, v = linear(pe, *self._first_attention).chunk(3, dim=-1)
        tokens, with_pe = self._add_norm(_self_attend(layer.self_attn, q, k, v), None, layer.norm1, pe)
        to_image = layer.cross_attn_token_to_image
        attended = _project(self._attend_shared_keys(image, _project(with_pe, to_image.q_proj)), to_image.out_proj)
        tokens, with_pe = self._feed_forward(tokens, attended, layer.norm2, layer.mlp, layer.norm3, pe)

        layer = self._second
        attention = layer.self_attn.internal_dim
        keys, q, k = torch.split(linear(with_pe, *self._first_keys), [width, attention, attention], dim=-1)
        values, v = torch.split(linear(tokens, *self._first_values), [width, attention], dim=-1)
        tokens, with_pe = self._add_norm(tokens, _self_attend(layer.self_attn, q, k, v), layer.norm1, pe)
        return ToImage(tokens, keys, values, _project(with_pe, layer.cross_attn_token_to_image.q_proj))

    def second(self, tokens: Tensor, attended: Tensor, pe: Tensor, read: Read) -> ToImage:
        """The rest of the second layer.

        Args:
            tokens: from `first`.
            attended: of the image by their queries, before the output projection, (N, T, H * D).
            pe: from `embed`.
            read: which tokens the final attention is for.

        Returns:
            Keys and values of the second layer, queries of the final attention.
        """
        layer = self._second
        attended = _project(attended, layer.cross_attn_token_to_image.out_proj)
        tokens, with_pe = self._feed_forward(tokens, attended, layer.norm2, layer.mlp, layer.norm3, pe)
        keys, queries = linear(with_pe, *self._second_keys).chunk(2, dim=-1)
        values = _project(tokens, layer.cross_attn_image_to_token.v_proj)
        return ToImage(tokens[:, read.tokens], keys, values, queries[:, read.tokens])

    def final(self, tokens: Tensor, attended: Tensor, read: Read) -> tuple[Tensor, Tensor]:
        """The output heads.

        Args:
            tokens: from `second`.
            attended: of the image by their queries, before the output projection, (N, Q, H * D).
            read: as in `second`.

        Returns:
            Predicted IoU (N, M); weights of the upscaled channels for each mask, (N, M, C / 8).
        """
        tokens, _ = self._add_norm(tokens, _project(attended, self._final.out_proj), self._final_norm, None)
        return self._heads(tokens, read)

    def _heads(self, tokens: Tensor, read: Read) -> tuple[Tensor, Tensor]:
        """`final` of tokens after their last norm, (N, Q, C)."""
        iou_predictions = self._decoder.iou_prediction_head(tokens[:, read.iou])[:, read.slots]
        heads = self._decoder.output_hypernetworks_mlps[read.slots]
        of_masks = tokens[:, read.masks].unbind(dim=1)
        return iou_predictions, torch.stack([head(x) for head, x in zip(heads, of_masks, strict=True)], dim=1)

    def _feed_forward(
        self, tokens: Tensor, update: Tensor, norm: nn.LayerNorm, mlp: MLPBlock, mlp_norm: nn.LayerNorm, pe: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Add an update to tokens and normalise; the same with the update by an MLP; see `_add_norm`."""
        tokens, _ = self._add_norm(tokens, update, norm, None)
        return self._add_norm(tokens, _project(self._hidden(tokens, mlp.lin1), mlp.lin2), mlp_norm, pe)

    def _hidden(self, tokens: Tensor, projection: nn.Linear) -> Tensor:
        """First layer of an MLP with its ReLU, (N, T, C) → (N, T, width)."""
        return linear(tokens, projection.weight, projection.bias, "relu")

    def _add_norm(
        self, tokens: Tensor, update: Tensor | None, norm: nn.LayerNorm, pe: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Layer norm of tokens with an update; the same plus their positions, if given. All are of one shape."""
        summed = tokens if update is None else tokens + update
        normed = F.layer_norm(summed, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
        return normed, normed if pe is None else normed + pe

    def _attend_shared_keys(self, image: SharedTokens, q: Tensor) -> Tensor:
        """First layer, tokens to image: q (N, T, H * D) → (N, T, H * D)."""
        num_heads = self._first.cross_attn_token_to_image.num_heads
        by_head = q.to(self._dtype).view(len(q) * q.shape[1], num_heads, -1).transpose(0, 1)  # (H, N * T, D)
        # The choice holds for the whole process: on a CPU, where threads would undo each other's, it stays as it is.
        with nullcontext() if q.device.type == "cpu" else sdpa_kernel(_ATTENTION_BACKENDS):
            attended = F.scaled_dot_product_attention(by_head[None], image.keys[None], image.values[None])
        return attended[0].transpose(0, 1).reshape(q.shape).to(q.dtype)


def _self_attend(attn: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """An attention among the tokens of each prompt, from their projections, all (N, T, C)."""
    q, k, v = (x.view(*x.shape[:2], attn.num_heads, -1).transpose(1, 2) for x in (q, k, v))  # (N, H, T, D)
    return _project(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2), attn.out_proj)


def _project(x: Tensor, projection: nn.Linear) -> Tensor:
    return linear(x, projection.weight, projection.bias)


def below_each_other(*projections: nn.Linear) -> tuple[Tensor, Tensor]:
    """Weight and bias of linear maps of the same input as one."""
    weights, biases = [p.weight.detach() for p in projections], [p.bias.detach() for p in projections]
    return torch.cat(weights), torch.cat(biases)
