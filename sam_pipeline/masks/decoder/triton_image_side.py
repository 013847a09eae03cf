"""The image side as Triton kernels that recompute image tokens, tile by tile, instead of storing them.

Only prompts with a mask to keep have their image tokens stored, for upscaling. See docs/decoder.md, "Triton". A program
has one prompt and some of its tiles. The kernels are in triton_kernels.py. Legend: see `image_side`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
import triton
from torch import Tensor

from sam_pipeline.masks.decoder import triton_kernels as kernels
from sam_pipeline.masks.decoder.folded_image_side import FoldedImageSide
from sam_pipeline.masks.decoder.image_side import ImageSideWeights, SharedTokens


class FirstLayer(NamedTuple):
    """What kernels compute image tokens after the first layer from: their first arguments, in order."""

    image_queries: Tensor
    """(H * D, K)."""
    image_tokens: Tensor
    """(C, K)."""
    key_pe: Tensor
    """(C, K)."""
    block_keys: Tensor
    """(N, H * T, H * D)."""
    folded_values: Tensor
    """(N, H * T, C)."""
    norm_weight: Tensor
    norm_bias: Tensor
    norm_eps: float


class SecondLayer(NamedTuple):
    """What they compute those after the second layer from, beside that: their next arguments."""

    folded_keys: Tensor
    """(N, H * T, C)."""
    score_bias: Tensor
    """(N, H * T)."""
    folded_values: Tensor
    """(N, H * T, C)."""
    norm_weight: Tensor
    norm_bias: Tensor
    norm_eps: float


_NO_SECOND_LAYER = (None,) * len(SecondLayer._fields)


@dataclass(frozen=True)
class Launch:
    """How the work of a kernel is cut."""

    tile: int
    """Tokens at once, a power of two of at least 16."""
    num_warps: int
    num_stages: int


class TritonImageSide(FoldedImageSide[FirstLayer, tuple[FirstLayer, SecondLayer]]):
    """See `FoldedImageSide`; on a Hopper GPU.

    For prompts of at most 8 tokens, such as one or two points or a box.

    Args:
        weights: on the device to use.
        dtype: of image tokens and of the operands of products. Sums, norms, softmaxes and mask logits are float32.
    """

    prompts_at_once = 1024
    """0.3 MB each and, with a mask to keep, 2 MB."""

    max_tokens: float = 8
    """The rows of more, padded to 16 a head, would not fit into 227 KB of shared memory."""

    averaging = Launch(tile=64, num_warps=8, num_stages=1)
    rebuilding = Launch(tile=64, num_warps=8, num_stages=1)
    upscaling = Launch(tile=64, num_warps=4, num_stages=1)

    def __init__(self, weights: ImageSideWeights, dtype: torch.dtype) -> None:
        super().__init__(weights.attentions)
        self._dtype = dtype
        self._num_heads = weights.num_heads
        self._key_pe = weights.key_pe.T.to(dtype).contiguous()  # (C, K)
        first, second, up = (
            (norm.weight.detach(), norm.bias.detach(), norm.eps) for norm in (*weights.norms, weights.up_norm)
        )
        self._norms = first, second
        (up1, up1_bias), (up2, up2_bias) = weights.up1, weights.up2
        self._up = up1.to(dtype), up1_bias, *up, up2.to(dtype), up2_bias
        device = weights.key_pe.device
        properties = torch.cuda.get_device_properties(device) if device.type == "cuda" else None
        self._processors = properties.multi_processor_count if properties else 1

    def first_layer(
        self, shared: SharedTokens, block_keys: Tensor, folded_values: Tensor, folded_queries: Tensor
    ) -> tuple[FirstLayer, Tensor]:
        """See `FoldedImageSide`."""
        image_queries, image_tokens = (self._operand(x.T) for x in (shared.image_queries, shared.image_tokens))
        first = FirstLayer(
            image_queries, image_tokens, self._key_pe, self._operand(block_keys), self._operand(folded_values),
            *self._norms[0],
        )  # fmt: skip
        return first, self._average(first, None, folded_queries)

    def second_layer(
        self, state: FirstLayer, folded_keys: Tensor, score_bias: Tensor, folded_values: Tensor, folded_queries: Tensor
    ) -> tuple[tuple[FirstLayer, SecondLayer], Tensor]:
        """See `FoldedImageSide`."""
        second = SecondLayer(
            self._operand(folded_keys), score_bias.contiguous(), self._operand(folded_values), *self._norms[1]
        )
        # The kernel takes as many rows as there are tokens: with fewer than 64 it would lose Hopper's own products.
        N, C, H = len(folded_queries), folded_queries.shape[2], self._num_heads
        by_head = folded_queries.view(N, H, -1, C)
        missing = folded_keys.shape[1] // H - by_head.shape[2]
        averages = self._average(state, second, F.pad(by_head, (0, 0, 0, missing)).flatten(1, 2))
        return (state, second), averages.view(N, H, -1, C)[:, :, : by_head.shape[2]].flatten(1, 2)

    def upscale(
        self,
        state: tuple[FirstLayer, SecondLayer],
        hyper_in: Tensor,
        keep_mask: Tensor,
        size: tuple[int, int],
        num_rows: int,
    ) -> Tensor:
        """See `ImageSide`."""
        first, second = state
        with_mask = keep_mask.any(dim=1)
        # The only wait for the device.
        num_masks, num_prompts = torch.stack([keep_mask.sum(), with_mask.sum()]).tolist()
        N, M, channels = hyper_in.shape
        num_tokens, w = num_rows * size[1], size[1]
        image_tokens = self._key_pe.new_empty(num_prompts, num_tokens, len(self._key_pe))
        masks = hyper_in.new_empty(num_masks, 4 * num_rows, 4 * w)
        tokens_a_program, splits = self._splits(num_tokens, num_prompts, self.rebuilding)
        with torch.cuda.device_of(hyper_in):  # type: ignore[no-untyped-call]  # where Triton launches
            kernels.rebuild[(N, splits)](
                *first, *second, _output_indices(with_mask), image_tokens, self._key_pe.shape[1], num_tokens,
                tokens_a_program, **self._shapes(first), **_options(self.rebuilding),
            )  # fmt: skip
            kernels.upscale[(N, triton.cdiv(num_tokens, self.upscaling.tile))](
                image_tokens, *self._up, hyper_in.contiguous(), _output_indices(with_mask), _output_indices(keep_mask),
                masks, num_tokens, w,
                M=M, C=image_tokens.shape[2], F=len(self._up[5]), G=channels, MP=max(4, triton.next_power_of_2(M)),
                **_options(self.upscaling),
            )  # fmt: skip
        return masks

    def _average(self, first: FirstLayer, second: SecondLayer | None, folded_queries: Tensor) -> Tensor:
        """For each query the image tokens averaged by its attention weights, both (N, H * T, C)."""
        N, rows, C = folded_queries.shape
        num_tokens = self._key_pe.shape[1]
        tokens_a_program, splits = self._splits(num_tokens, N, self.averaging)
        averages, log_sum_exp = folded_queries.new_empty(N, splits, rows, C), folded_queries.new_empty(N, splits, rows)
        with torch.cuda.device_of(folded_queries):  # type: ignore[no-untyped-call]  # where Triton launches
            kernels.average[(N, splits)](
                *first, *(second or _NO_SECOND_LAYER), self._operand(folded_queries), averages, log_sum_exp,
                num_tokens, tokens_a_program, **self._shapes(first), **_options(self.averaging),
            )  # fmt: skip
        return (averages * log_sum_exp.softmax(dim=1)[..., None]).sum(dim=1)

    def _splits(self, num_tokens: int, num_prompts: int, launch: Launch) -> tuple[int, int]:
        """Tokens a program, and programs a prompt: about four a processor, so that no processor is idle for long."""
        tiles = triton.cdiv(num_tokens, launch.tile)
        splits = min(tiles, triton.cdiv(4 * self._processors, max(num_prompts, 1)))
        tokens_a_program = triton.cdiv(tiles, splits) * launch.tile
        return tokens_a_program, triton.cdiv(num_tokens, tokens_a_program)

    def _shapes(self, first: FirstLayer) -> dict[str, int]:
        T = first.block_keys.shape[1] // self._num_heads
        assert self.max_tokens >= T, f"{T} tokens a prompt"
        return {
            "T": T,
            "H": self._num_heads,
            "TP": triton.next_power_of_2(T),
            "D": first.image_queries.shape[0],
            "C": first.image_tokens.shape[0],
        }

    def _operand(self, x: Tensor) -> Tensor:
        return x.to(self._dtype).contiguous()


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
