"""The image side on a GPU in 16 bits: as on CPUs the image tokens of a prompt are never computed, see `low_rank`.

A prompt's tokens are folded (`folding`), its image tokens weighed and attended to (`attention`), its masks upscaled
(`upscaling`). A program of the last two has one prompt and a part of its image tokens. See docs/decoder.md,
"Triton". Legend: see `image_side`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from sam_pipeline.masks.decoder.gpu import attention as kernels
from sam_pipeline.masks.decoder.gpu import upscaling
from sam_pipeline.masks.decoder.gpu.folding import Folding
from sam_pipeline.masks.decoder.gpu.matrices import device_of
from sam_pipeline.masks.decoder.image_side import ImageSideWeights, SharedTokens, score_root
from sam_pipeline.masks.decoder.low_rank import LowRankWeights, SharedProjections, SharedSquares


class Launch(NamedTuple):
    """How the work of a kernel is cut."""

    tile: int
    """Tokens at once, a power of two of at least 16."""
    num_warps: int


@dataclass(frozen=True)
class Launches:
    """The launches of the kernels whose work is cut, for one kind of GPU."""

    weighing: Launch
    attending: Launch
    upscaling: Launch


HOPPER = Launches(weighing=Launch(64, 4), attending=Launch(128, 8), upscaling=Launch(64, 4))
"""With these, no kernel spills registers. Products of 64 rows and more use Hopper's warpgroup instructions (WGMMA)."""
OTHERS = Launches(weighing=Launch(32, 8), attending=Launch(64, 8), upscaling=Launch(64, 4))
"""For 99 KB of shared memory, which GPUs of compute capability 8.6 and 8.9 have."""


class _Factors(NamedTuple):
    """Of the image tokens of N prompts after a layer."""

    attention: Tensor
    """Attention weights of the layer, (N, K, R)."""
    rstd: Tensor
    """Reciprocal standard deviations, (N, K) float32."""


class _Shared(NamedTuple):
    """What all prompts of an image share."""

    image_queries: Tensor
    """First layer, image to tokens: queries, (H, K, D)."""
    projections: SharedProjections
    squares: SharedSquares


class _FirstLayer(NamedTuple):
    """Image tokens of N prompts after the first layer."""

    shared: _Shared
    value_rows: Tensor
    """Values of the tokens in the first layer, block-diagonally, (N, R, H * D)."""
    vectors: Tensor
    """The first half of V3 after the first transposed convolution, (N, R, C)."""
    factors: _Factors


class _BothLayers(NamedTuple):
    """Image tokens of N prompts after both layers."""

    first: _FirstLayer
    vectors: Tensor
    """The second half, (N, R, C)."""
    factors: _Factors


class TritonImageSide:
    """See `ImageSide`; on a GPU.

    For prompts of at most 8 tokens, such as one or two points or a box.

    Args:
        weights: on the device to use.
        dtype: of the operands of products and of attention weights. Sums, norms, softmaxes and mask logits are float32.
        launches: for the device.
    """

    prompts_at_once = 1024
    """1 MB each."""

    max_tokens: float = 8
    """More tokens, padded to 16 a head, would not fit into shared memory."""

    def __init__(self, weights: ImageSideWeights, dtype: torch.dtype, launches: Launches = HOPPER) -> None:
        self._dtype, self._launches = dtype, launches
        self._low_rank = low_rank = LowRankWeights(weights)
        self._folding = Folding(low_rank, [score_root(attn) for attn in weights.attentions], dtype)
        self._key_pe, self._query_pe, self._final_key_pe = (
            self._operand(pe) for pe in (low_rank.key_pe, low_rank.query_pe, low_rank.final_key_pe)
        )
        up_norm, (up2, up2_bias) = weights.up_norm, weights.up2
        self._up = (
            low_rank.up1_bias, up_norm.weight.detach(), up_norm.bias.detach(), up_norm.eps,
            self._operand(up2), up2_bias,
        )  # fmt: skip
        device = weights.key_pe.device
        properties = torch.cuda.get_device_properties(device) if device.type == "cuda" else None
        self._processors = properties.multi_processor_count if properties else 1

    def share(self, tokens: SharedTokens) -> _Shared:
        """See `ImageSide`."""
        return _Shared(tokens.image_queries.to(self._dtype), *self._low_rank.share(tokens, self._dtype))

    def update_first(
        self, shared: _Shared, keys: Tensor, values: Tensor, queries: Tensor
    ) -> tuple[_FirstLayer, Tensor]:
        """See `ImageSide`."""
        assert self.max_tokens >= values.shape[1], f"{values.shape[1]} tokens a prompt"
        low_rank, projections = self._low_rank, shared.projections
        own = self._folding.first(keys, values, queries)
        factors = self._weigh(
            kernels.weigh_first, values,
            shared.image_queries, projections.cross1, projections.cross1.stride(0), shared.squares.first,
            shared.squares.first.stride(0), low_rank.eps[0], own.key_rows, own.value_rows, own.gram,
        )  # fmt: skip
        after = (*factors, own.scores, own.own_values)
        attended = self._attend(
            queries, projections.keys, projections.values, self._key_pe, low_rank.value_bias, own.query_rows, after
        )
        return _FirstLayer(shared, own.value_rows, own.vectors, factors), attended

    def update_second(
        self, state: _FirstLayer, keys: Tensor, values: Tensor, queries: Tensor
    ) -> tuple[_BothLayers, Tensor]:
        """See `ImageSide`."""
        low_rank, projections, squares = self._low_rank, state.shared.projections, state.shared.squares
        own = self._folding.second(state.value_rows, keys, values, queries)
        factors = self._weigh(
            kernels.weigh_second, values,
            projections.queries, projections.cross21, projections.cross22, projections.queries.stride(0),
            self._query_pe, squares.second, squares.second.stride(0), squares.cross_bias, squares.cross_bias.stride(0),
            low_rank.eps[1],
            state.value_rows, own.key_rows, own.value_rows, own.key_vectors, own.gram11, own.gram12, own.gram22,
            *state.factors,
        )  # fmt: skip
        first = (*state.factors, own.scores1, own.own_values1)
        second = (*factors, own.scores2, own.own_values2)
        attended = self._attend(
            queries, projections.final_keys, projections.final_values, self._final_key_pe, low_rank.final_value_bias,
            own.query_rows, first, second,
        )  # fmt: skip
        return _BothLayers(state, own.vectors, factors), attended

    def upscale(
        self, state: _BothLayers, hyper_in: Tensor, keep_mask: Tensor, size: tuple[int, int], num_rows: int
    ) -> Tensor:
        """See `ImageSide`."""
        first, launch, w = state.first, self._launches.upscaling, size[1]
        num_upscaled, (N, M, channels) = num_rows * w, hyper_in.shape
        num_kept = keep_mask.flatten().cumsum(0)
        (num_masks,) = num_kept[-1:].tolist()  # the only wait for the device
        masks = hyper_in.new_empty(num_masks, 4 * num_rows, 4 * w)
        fine = first.shared.projections.fine
        with device_of(hyper_in):
            upscaling.upscale[(N, triton.cdiv(num_upscaled, launch.tile))](
                *first.factors, *state.factors, fine, fine.stride(0), first.vectors, state.vectors, *self._up,
                hyper_in.contiguous(), keep_mask.contiguous(), num_kept, masks, len(fine), num_upscaled, w,
                R=first.vectors.shape[1], M=M, F=len(self._up[1]), G=channels, MP=max(4, triton.next_power_of_2(M)),
                **_options(launch),
            )  # fmt: skip
        return masks

    def _weigh(self, kernel: Any, values: Tensor, *args: Any) -> _Factors:
        """Launch a kernel that computes a layer's factors, for prompts of these values (N, T, H * D)."""
        (N, T, width), H, K = values.shape, self._low_rank.num_heads, len(self._key_pe)
        R, launch = self._folding.num_rows(T), self._launches.weighing
        factors = _Factors(self._key_pe.new_empty(N, K, R), values.new_empty(N, K))
        tokens_a_program, splits = self._splits(K, N, launch)
        with device_of(values):
            kernel[(N, splits)](
                *args, *factors, K, tokens_a_program, T=T, TP=R // H, H=H, D=width // H, **_options(launch)
            )
        return factors

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
            first: factors of the first layer, scores of its vectors, and their values.
            second: the same of the second layer.
        """
        (N, Q, width), H, K = queries.shape, self._low_rank.num_heads, len(key_pe)
        launch, QP = self._launches.attending, query_rows.shape[1] // H
        tokens_a_program, splits = self._splits(K, N, launch)
        attended, log_sum_exp = queries.new_empty(N, splits, Q, width), queries.new_empty(N, splits, H, QP)
        with device_of(queries):
            kernels.attend[(N, splits)](
                image_keys, image_values, image_keys.stride(0), key_pe, value_bias, query_rows, *first, *second,
                attended, log_sum_exp, K, tokens_a_program,
                TP=first[0].shape[2] // H, Q=Q, QP=QP, H=H, D=width // H, **_options(launch),
            )  # fmt: skip
        if splits == 1:
            return attended[:, 0]
        shares = log_sum_exp[..., :Q].softmax(dim=1).transpose(2, 3)  # (N, splits, Q, H)
        return (attended.view(N, splits, Q, H, -1) * shares[..., None]).sum(dim=1).flatten(2)

    def _splits(self, num_tokens: int, num_prompts: int, launch: Launch) -> tuple[int, int]:
        """Tokens a program, and programs a prompt: about four a processor, so that no processor is idle for long."""
        tiles = triton.cdiv(num_tokens, launch.tile)
        splits = min(tiles, triton.cdiv(4 * self._processors, max(num_prompts, 1)))
        tokens_a_program = triton.cdiv(tiles, splits) * launch.tile
        return tokens_a_program, triton.cdiv(num_tokens, tokens_a_program)

    def _operand(self, x: Tensor) -> Tensor:
        return x.to(self._dtype).contiguous()


def _options(launch: Launch) -> dict[str, Any]:
    # One stage: a second tile in flight would take as much shared memory as everything else.
    return {"TILE": launch.tile, "num_warps": launch.num_warps, "num_stages": 1}
