"""The token side on a GPU, with kernels where torch takes many launches; the arithmetic is float32 as in `token_side`.

One kernel embeds prompts, one adds, normalises and adds positions (`triton_blocks.add_norm`), one is a layer of all
output heads. Legend: see `token_side`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

from sam_pipeline.masks.decoder.gpu.matrices import device_of
from sam_pipeline.masks.decoder.token_side import Points, Read, TokenSide
from sam_pipeline.model.networks.prompt_encoder import check_prompts
from sam_pipeline.model.networks.triton_blocks import add_norm
from sam_pipeline.model.sam import Sam

_ROWS, _COLUMNS, _INNER = 32, 64, 32
"""Rows and columns of an output tile of head_layer, and input channels loaded at once."""


class TritonTokenSide(TokenSide):
    """See `TokenSide`; of networks that `has_heads_alike` is true of."""

    def __init__(self, sam: Sam, dtype: torch.dtype) -> None:
        super().__init__(sam, dtype)
        encoder, decoder = sam.prompt_encoder, sam.mask_decoder
        points = [encoder.not_a_point_embed.weight, *encoder.point_embeddings.parameters()]
        self._vectors = torch.cat([self._own_tokens, *points]).detach()
        self._frequencies = encoder.pe_layer.positional_encoding_gaussian_matrix
        # Of each layer weights (1 + M, in, out) and biases (1 + M, out), in the order of the decoder's own tokens.
        first, *others = decoder.output_hypernetworks_mlps
        heads = [first, decoder.iou_prediction_head, *others]
        self._layers = [_stacked(layers) for layers in zip(*(head.layers for head in heads), strict=True)]

    def embed(self, points: Points | None, boxes: Tensor | None) -> Tensor:
        """See `TokenSide`."""
        check_prompts(points, boxes)  # the kernel would read beyond them
        given = [x.contiguous() for x in (*(points or ()), boxes) if x is not None]
        if not given:
            return super().embed(points, boxes)
        coords, labels = given[:2] if points else (None, None)
        corners = None if boxes is None else given[-1]
        num_points = coords.shape[1] if coords is not None else 0
        num_tokens = len(self._own_tokens) + num_points + (1 if corners is None else 2)
        height, width = self._prompt_encoder.input_image_size
        tokens = self._vectors.new_empty(len(given[0]), num_tokens, self._vectors.shape[1])
        if len(tokens):
            with device_of(tokens):
                embed_prompts[(len(tokens), num_tokens)](
                    coords, labels, corners, self._vectors, self._frequencies, tokens, num_points,
                    WIDTH=width, HEIGHT=height, OWN=len(self._own_tokens), C=tokens.shape[2],
                    BLOCK=triton.next_power_of_2(tokens.shape[2]),
                )  # fmt: skip
        return tokens

    def _add_norm(
        self, tokens: Tensor, update: Tensor | None, norm: nn.LayerNorm, pe: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        normed, C = tokens.new_empty(tokens.shape), tokens.shape[-1]
        with_pe = None if pe is None else tokens.new_empty(tokens.shape)
        with device_of(tokens):
            add_norm[(tokens.numel() // C,)](
                tokens, tokens.shape[1], tokens.stride(0), update, norm.weight, norm.bias, norm.eps, None, normed, pe,
                with_pe, C=C, BLOCK=triton.next_power_of_2(C),
            )  # fmt: skip
        return normed, normed if with_pe is None else with_pe

    def _hidden(self, tokens: Tensor, projection: nn.Linear) -> Tensor:
        # The only name that torch has for a product with a ReLU in the same kernel.
        hidden = torch._addmm_activation(projection.bias, tokens.flatten(0, 1), projection.weight.T)
        return hidden.view(*tokens.shape[:2], -1)

    def _heads(self, tokens: Tensor, read: Read) -> tuple[Tensor, Tensor]:
        N, Q, _ = tokens.shape
        for weight, bias in self._layers:
            outputs = tokens.new_empty(N, Q, weight.shape[2])
            with device_of(tokens):
                head_layer[(triton.cdiv(N, _ROWS), Q, triton.cdiv(weight.shape[2], _COLUMNS))](
                    tokens, weight[read.tokens], bias[read.tokens], outputs, N,
                    IN=weight.shape[1], OUT=weight.shape[2], RELU=weight is not self._layers[-1][0],
                    ROWS=_ROWS, COLUMNS=_COLUMNS, INNER=_INNER,
                )  # fmt: skip
            tokens = outputs
        return tokens[:, read.iou, : self._decoder.num_mask_tokens][:, read.slots], tokens[:, read.masks]


def _stacked(layers: Sequence[nn.Linear]) -> tuple[Tensor, Tensor]:
    """Weights (heads, in, out) and biases (heads, out) of a layer of all heads; zeros where one has fewer outputs."""
    size = max(layer.out_features for layer in layers)
    weight = layers[0].weight.new_zeros(len(layers), layers[0].in_features, size)
    bias = weight.new_zeros(len(layers), size)
    for number, layer in enumerate(layers):
        weight[number, :, : layer.out_features] = layer.weight.detach().T
        bias[number, : layer.out_features] = layer.bias.detach()
    return weight, bias


@triton.jit(do_not_specialize=["num_points"])
def embed_prompts(
    points: tl.tensor,  # (N, P, 2), or None, as labels
    labels: tl.tensor,  # (N, P)
    boxes: tl.tensor,  # (N, 2, 2), or None
    vectors: tl.tensor,  # (OWN + 5, C): own tokens, no point, background, foreground, two corners
    frequencies: tl.tensor,  # (2, C / 2)
    tokens: tl.tensor,  # out: (N, T, C)
    num_points: tl.tensor,  # P
    WIDTH: tl.constexpr,
    HEIGHT: tl.constexpr,
    OWN: tl.constexpr,
    C: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Embed one token: an own one, a point, padding, or the corner of a box; see `PromptEncoder`."""
    prompt, token = tl.program_id(0).to(tl.int64), tl.program_id(1)
    place = token - OWN
    # What it is until a point or a corner is found: an own token or padding, a vector alone.
    number, x, y = tl.minimum(token, OWN), 0.0, 0.0
    has_vector, has_position = True, False
    if points is not None:  # noqa: SIM102  # decided when compiled, unlike the next
        if (place >= 0) & (place < num_points):
            point = prompt * num_points + place
            # In their own type, perhaps float64, until they are divided by the size.
            x = ((tl.load(points + 2 * point) + 0.5) / WIDTH).to(tl.float32)
            y = ((tl.load(points + 2 * point + 1) + 0.5) / HEIGHT).to(tl.float32)
            label = tl.load(labels + point).to(tl.float32)
            has_vector, has_position = (label == -1) | (label == 0) | (label == 1), label != -1
            number = OWN + tl.where(label == 0, 1, tl.where(label == 1, 2, 0))
    if boxes is not None:  # noqa: SIM102  # likewise
        if place >= num_points:
            corner = prompt * 2 + place - num_points
            x = ((tl.load(boxes + 2 * corner) + 0.5) / WIDTH).to(tl.float32)
            y = ((tl.load(boxes + 2 * corner + 1) + 0.5) / HEIGHT).to(tl.float32)
            has_position = True
            number = OWN + 3 + place - num_points
    channels = tl.arange(0, BLOCK)
    real = channels < C
    column = frequencies + channels % (C // 2)
    angles = (2 * x - 1) * tl.load(column, mask=real, other=0.0)
    angles += (2 * y - 1) * tl.load(column + C // 2, mask=real, other=0.0)
    angles *= 6.283185307179586
    position = tl.where(channels < C // 2, tl.sin(angles), tl.cos(angles))
    vector = tl.load(vectors + number * C + channels, mask=real, other=0.0)
    output = tl.where(has_position, position, 0.0) + tl.where(has_vector, vector, 0.0)
    tl.store(tokens + (prompt * tl.num_programs(1) + token) * C + channels, output, mask=real)


@triton.jit(do_not_specialize=["N"])
def head_layer(
    inputs: tl.tensor,  # (N, Q, IN)
    weight: tl.tensor,  # (Q, IN, OUT)
    bias: tl.tensor,  # (Q, OUT)
    outputs: tl.tensor,  # out: (N, Q, OUT)
    N: tl.tensor,
    IN: tl.constexpr,
    OUT: tl.constexpr,
    RELU: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    INNER: tl.constexpr,
) -> None:
    """Linear layer with weights of its own for each token of a prompt; with RELU, a ReLU after it."""
    head, num_read = tl.program_id(1), tl.num_programs(1)
    prompts = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    rows = prompts.to(tl.int64) * num_read + head
    weight += head * IN * OUT
    sums = tl.zeros((ROWS, COLUMNS), tl.float32)
    for first in range(0, IN, INNER):
        inner = first + tl.arange(0, INNER)
        x = tl.load(
            inputs + rows[:, None] * IN + inner[None, :], mask=(prompts < N)[:, None] & (inner < IN)[None, :], other=0.0
        )
        w = tl.load(
            weight + inner[:, None] * OUT + columns[None, :],
            mask=(inner < IN)[:, None] & (columns < OUT)[None, :],
            other=0.0,
        )
        sums = tl.dot(x, w, sums, input_precision="ieee")
    sums += tl.load(bias + head * OUT + columns, mask=columns < OUT, other=0.0)[None, :]
    if RELU:
        sums = tl.where(sums < 0, 0.0, sums)  # which keeps NaN, as torch's does
    places = outputs + rows[:, None] * OUT + columns[None, :]
    tl.store(places, sums, mask=(prompts < N)[:, None] & (columns < OUT)[None, :])
