"""The image side on a GPU in 16 bits: as on CPUs the image tokens of a prompt are never computed, see `low_rank`.

Each layer is one Triton kernel, and so is upscaling. A program has one prompt and some tiles of its image tokens. See
docs/decoder.md, "Triton". The kernels are in triton_kernels.py. Legend: see `image_side`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from sam_pipeline.masks.decoder import triton_kernels as kernels
from sam_pipeline.masks.decoder.image_side import ImageSideWeights, SharedTokens, score_root
from sam_pipeline.masks.decoder.low_rank import LowRankWeights, SharedProjections, SharedSquares


@dataclass(frozen=True)
class Launch:
    """How the work of a kernel is cut."""

    tile: int
    """Tokens at once, a power of two of at least 16."""
    num_warps: int
    num_stages: int


class _Shared(NamedTuple):
    """What all prompts of an image share."""

    image_queries: Tensor
    """First layer, image to tokens: queries, (K, H * D)."""
    projections: SharedProjections
    squares: SharedSquares


class FirstOperands(NamedTuple):
    """What `update_first` needs of the tokens of N prompts; R = H * TP, where TP is T up to a power of two.

    Rows are block-diagonal, (N, R, H * D).
    """

    key_rows: Tensor
    value_rows: Tensor
    query_rows: Tensor
    gram: Tensor
    """V V^T / C, (N, R, R)."""
    vector_scores: Tensor
    """V1 W_k^T q^T, (N, R, R)."""
    own_values: Tensor
    """V1 W_v^T, (N, R, H * D)."""


class SecondOperands(NamedTuple):
    """What `update_second` needs of the tokens of N prompts, beside the value rows of the first layer."""

    key_rows: Tensor
    """(N, R, H * D), as the next."""
    value_rows: Tensor
    query_rows: Tensor
    """(N, H * QP, H * D)."""
    key_vectors: Tensor
    """V1 W_q^T k^T, (N, R, R)."""
    gram11: Tensor
    """Blocks of V2 V2^T / C, (N, R, R); the one off the diagonal twice."""
    gram12: Tensor
    gram22: Tensor
    scores1: Tensor
    """Both halves of V3 W_k^T q^T, (N, R, H * QP)."""
    scores2: Tensor
    own_values1: Tensor
    """Both halves of V3 W_v^T, (N, R, H * D)."""
    own_values2: Tensor


class _FirstLayer(NamedTuple):
    """Image tokens of N prompts after the first layer, as factors."""

    shared: _Shared
    values: Tensor
    """Of the tokens in the first layer, (N, T, H * D)."""
    value_rows: Tensor
    """The same block-diagonally, (N, R, H * D)."""
    attention: Tensor
    """A1, (N, K, H * TP), where TP is T up to a power of two."""
    rstd: Tensor
    """r1, (N, K)."""


class _BothLayers(NamedTuple):
    """Image tokens of N prompts after both layers, as factors."""

    first: _FirstLayer
    values: Tensor
    """Of the tokens in the second layer, (N, T, H * D)."""
    attention: Tensor
    """A2, (N, K, H * TP)."""
    rstd: Tensor
    """r2, (N, K)."""


class TritonImageSide:
    """See `ImageSide`; on a GPU.

    For prompts of at most 8 tokens, such as one or two points or a box.

    Args:
        weights: on the device to use.
        dtype: of the operands of products, and of attention weights. Sums, norms, softmaxes and mask logits are float32.
    """

    prompts_at_once = 1024
    """1 MB each."""

    max_tokens: float = 8
    """The rows of more, padded to 16 a head, would not fit into shared memory."""

    weighing = Launch(tile=64, num_warps=4, num_stages=1)
    attending = Launch(tile=128, num_warps=8, num_stages=1)
    upscaling = Launch(tile=64, num_warps=4, num_stages=1)

    def __init__(self, weights: ImageSideWeights, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._low_rank = low_rank = LowRankWeights(weights)
        self._roots = [score_root(attn) for attn in weights.attentions]
        self._key_pe, self._query_pe, self._final_key_pe = (
            self._operand(pe) for pe in (low_rank.key_pe, low_rank.query_pe, low_rank.final_key_pe)
        )
        # Products of two projections: between them there are C channels, which no kernel needs to see.
        C, H = len(low_rank.bias), low_rank.num_heads
        first, second = low_rank.outputs2
        final_first, final_second = first * low_rank.second_weight, second * low_rank.second_weight
        bias, final_bias = low_rank.bias / H, low_rank.bias * low_rank.second_weight / H
        self._first_weights = [
            self._operand(weight)
            for weight in (
                low_rank.output1 @ low_rank.output1.T / C,
                low_rank.output1_normed @ low_rank.key.T,
                low_rank.output1_normed @ low_rank.value.T,
            )
        ]
        self._second_weights = [
            self._operand(weight)
            for weight in (
                low_rank.output1_normed @ low_rank.query.T,
                first @ first.T / C,
                first @ second.T * (2 / C),
                second @ second.T / C,
                final_first @ low_rank.final_key.T,
                final_second @ low_rank.final_key.T,
                final_first @ low_rank.final_value.T,
                final_second @ low_rank.final_value.T,
            )
        ]
        self._second_biases = [
            first @ bias * (2 / C),
            second @ bias / C,
            low_rank.final_key @ final_bias,
            low_rank.final_value @ final_bias,
            bias.square().mean(),
        ]
        self._vector_weights = [self._by_head(final @ low_rank.up1) for final in (final_first, final_second)]
        up_norm, (up2, up2_bias) = weights.up_norm, weights.up2
        self._up = (
            final_bias @ low_rank.up1 * H, low_rank.up1_bias, up_norm.weight.detach(), up_norm.bias.detach(), up_norm.eps,
            self._operand(up2), up2_bias,
        )  # fmt: skip
        device = weights.key_pe.device
        properties = torch.cuda.get_device_properties(device) if device.type == "cuda" else None
        self._processors = properties.multi_processor_count if properties else 1

    def share(self, tokens: SharedTokens) -> _Shared:
        """See `ImageSide`."""
        return _Shared(self._operand(tokens.image_queries), *self._low_rank.share(tokens, self._dtype))

    def update_first(self, shared: _Shared, keys: Tensor, values: Tensor, queries: Tensor) -> tuple[_FirstLayer, Tensor]:
        """See `ImageSide`."""
        low_rank, projections = self._low_rank, shared.projections
        N, T, width = values.shape
        assert self.max_tokens >= T, f"{T} tokens a prompt"
        rows, vectors = self._rows(T), (N, self._rows(T), width)
        own = FirstOperands(
            *self._new_operands(vectors, vectors, vectors, (N, rows, rows), (N, rows, rows), vectors)
        )
        shapes = {"T": T, "TP": rows // low_rank.num_heads, "H": low_rank.num_heads, "D": width // low_rank.num_heads}
        with _device_of(values):
            kernels.fold_first[(N,)](
                keys / self._roots[0], values.contiguous(), queries / self._roots[1], *self._first_weights, *own,
                **shapes, num_warps=8,
            )  # fmt: skip
        attention, rstd = self._weigh(
            kernels.weigh_first, N, rows,
            shared.image_queries, projections.cross1, projections.cross1.stride(0), shared.squares.first,
            low_rank.eps[0], own.key_rows, own.value_rows, own.gram, **shapes,
        )  # fmt: skip
        after = (attention, rstd, own.vector_scores, own.own_values)
        attended = self._attend(
            queries, projections.keys, projections.values, self._key_pe, low_rank.value_bias, own.query_rows, after
        )
        return _FirstLayer(shared, values, own.value_rows, attention, rstd), attended

    def update_second(
        self, state: _FirstLayer, keys: Tensor, values: Tensor, queries: Tensor
    ) -> tuple[_BothLayers, Tensor]:
        """See `ImageSide`."""
        low_rank, projections, squares = self._low_rank, state.shared.projections, state.shared.squares
        (N, T, width), Q, H = values.shape, queries.shape[1], low_rank.num_heads
        rows, query_rows = self._rows(T), self._rows(Q)
        vectors, square, scores = (N, rows, width), (N, rows, rows), (N, rows, query_rows)
        own = SecondOperands(
            *self._new_operands(
                vectors, vectors, (N, query_rows, width), square, square, square, square, scores, scores, vectors, vectors
            )
        )
        shapes = {"T": T, "TP": rows // H, "Q": Q, "QP": query_rows // H, "H": H, "D": width // H}
        with _device_of(values):
            kernels.fold_second[(N,)](
                state.value_rows, keys / self._roots[2], values.contiguous(), queries / self._roots[3],
                *self._second_weights, *self._second_biases, *own, **shapes, num_warps=8,
            )  # fmt: skip
        attention, rstd = self._weigh(
            kernels.weigh_second, N, rows,
            projections.queries, projections.cross21, projections.cross22, projections.queries.stride(0),
            self._query_pe, squares.second, squares.cross_bias, low_rank.eps[1],
            state.value_rows, own.key_rows, own.value_rows, own.key_vectors, own.gram11, own.gram12, own.gram22,
            state.attention, state.rstd, **shapes,
        )  # fmt: skip
        first = (state.attention, state.rstd, own.scores1, own.own_values1)
        second = (attention, rstd, own.scores2, own.own_values2)
        attended = self._attend(
            queries, projections.final_keys, projections.final_values, self._final_key_pe, low_rank.final_value_bias,
            own.query_rows, first, second,
        )  # fmt: skip
        return _BothLayers(state, values, attention, rstd), attended

    def upscale(
        self, state: _BothLayers, hyper_in: Tensor, keep_mask: Tensor, size: tuple[int, int], num_rows: int
    ) -> Tensor:
        """See `ImageSide`."""
        first = state.first
        num_tokens, w = num_rows * size[1], size[1]
        masks = hyper_in.new_empty(int(keep_mask.sum()), 4 * num_rows, 4 * w)  # the only wait for the device
        N, M, channels = hyper_in.shape
        fine = first.shared.projections.fine
        vectors = (self._vectors(*each) for each in zip((first.values, state.values), self._vector_weights, strict=True))
        with _device_of(hyper_in):
            kernels.upscale[(N, triton.cdiv(num_tokens, self.upscaling.tile))](
                first.attention, state.attention, first.rstd, state.rstd, fine, fine.stride(0), *vectors, *self._up,
                hyper_in.contiguous(), _output_indices(keep_mask), masks, N, len(fine), num_tokens, w,
                T=state.values.shape[1], TP=triton.next_power_of_2(state.values.shape[1]),
                H=self._low_rank.num_heads, M=M, F=len(self._up[2]), G=channels,
                MP=max(4, triton.next_power_of_2(M)), **_options(self.upscaling),
            )  # fmt: skip
        return masks

    def _weigh(self, kernel: Any, num_prompts: int, rows: int, *args: Any, **shapes: int) -> tuple[Tensor, Tensor]:
        """Attention weights (N, K, R) and reciprocal standard deviations (N, K) of one layer."""
        K = len(self._key_pe)
        attention = self._key_pe.new_empty(num_prompts, K, rows)
        rstd = self._key_pe.new_empty(num_prompts, K, dtype=torch.float32)
        tokens_a_program, splits = self._splits(K, num_prompts, self.weighing)
        with _device_of(attention):
            kernel[(num_prompts, splits)](
                *args, attention, rstd, K, tokens_a_program,
                **{name: shapes[name] for name in ("T", "TP", "H", "D")}, **_options(self.weighing),
            )  # fmt: skip
        return attention, rstd

    def _attend(
        self,
        queries: Tensor,
        image_keys: Tensor,
        image_values: Tensor,
        key_pe: Tensor,
        value_bias: Tensor,
        query_rows: Tensor,
        first: tuple[Tensor, Tensor, Tensor, Tensor],
        second: tuple[Tensor, Tensor, Tensor, Tensor] | tuple[None, None, None, None] = (None, None, None, None),
    ) -> Tensor:
        """Attended values of the queries, (N, Q, H * D), over all image tokens.

        Args:
            queries: (N, Q, H * D).
            image_keys: shared, (K, H * D).
            image_values: shared, (K, H * D).
            key_pe: (K, H * D).
            value_bias: (H * D,).
            query_rows: the queries block-diagonally.
            first: attention weights, reciprocal standard deviations, scores of the vectors, and their values.
            second: the same of the second layer.
        """
        (N, Q, width), H, K = queries.shape, self._low_rank.num_heads, len(key_pe)
        tokens_a_program, splits = self._splits(K, N, self.attending)
        attended = queries.new_empty(N, splits, Q, width)
        log_sum_exp = queries.new_empty(N, splits, H, self._rows(Q) // H)
        with _device_of(queries):
            kernels.attend[(N, splits)](
                image_keys, image_values, image_keys.stride(0), key_pe, value_bias, query_rows, *first, *second,
                attended, log_sum_exp, K, tokens_a_program,
                TP=first[0].shape[2] // H, Q=Q, QP=self._rows(Q) // H, H=H, D=width // H, **_options(self.attending),
            )  # fmt: skip
        if splits == 1:
            return attended[:, 0]
        shares = log_sum_exp[..., :Q].softmax(dim=1).transpose(2, 3)  # (N, splits, Q, H)
        return (attended.view(N, splits, Q, H, -1) * shares[..., None]).sum(dim=1).flatten(2)

    def _rows(self, num_tokens: int) -> int:
        """Rows of a prompt's tokens in all heads, padded."""
        return self._low_rank.num_heads * triton.next_power_of_2(num_tokens)

    def _new_operands(self, *shapes: tuple[int, ...]) -> list[Tensor]:
        return [self._key_pe.new_empty(shape) for shape in shapes]

    def _splits(self, num_tokens: int, num_prompts: int, launch: Launch) -> tuple[int, int]:
        """Tokens a program, and programs a prompt: about four a processor, so that no processor is idle for long."""
        tiles = triton.cdiv(num_tokens, launch.tile)
        splits = min(tiles, triton.cdiv(4 * self._processors, max(num_prompts, 1)))
        tokens_a_program = triton.cdiv(tiles, splits) * launch.tile
        return tokens_a_program, triton.cdiv(num_tokens, tokens_a_program)

    def _vectors(self, values: Tensor, weight: Tensor) -> Tensor:
        """The vectors of a layer after the first transposed convolution: (N, T, H * D) → (H, N, T, C)."""
        H = len(weight)
        by_head = self._operand(values).view(-1, H, weight.shape[1]).transpose(0, 1)  # (H, N * T, D)
        return torch.bmm(by_head, weight).view(H, *values.shape[:2], -1)

    def _by_head(self, matrix: Tensor) -> Tensor:
        """(H * D, C) → (H, D, C)."""
        return self._operand(matrix).view(self._low_rank.num_heads, -1, matrix.shape[1])

    def _operand(self, x: Tensor) -> Tensor:
        return x.to(self._dtype).contiguous()


def _device_of(x: Tensor) -> Any:
    """Where Triton launches."""
    return torch.cuda.device_of(x)  # type: ignore[no-untyped-call]


def _options(launch: Launch) -> dict[str, Any]:
    return {
        "TILE": launch.tile,
        "num_warps": launch.num_warps,
        "num_stages": launch.num_stages,
        "enable_fp_fusion": True,
    }


def _output_indices(chosen: Tensor) -> Tensor:
    """Index of each chosen entry in an output that holds those alone, -1 for the others; int32."""
    return torch.where(chosen, chosen.flatten().cumsum(0).view_as(chosen) - 1, -1).to(torch.int32)
