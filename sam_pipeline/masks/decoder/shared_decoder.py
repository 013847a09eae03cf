"""The mask decoder for many prompts of one image, with everything that the prompts share computed once.

The same result as mask_decoder.py and two_way_transformer.py of model/networks/ up to rounding, for a fraction of the
arithmetic and without a copy of the image tokens for every prompt. docs/decoder.md has the derivation.

Here the tokens of many prompts are updated together; an `ImageSide` for the device updates their image tokens.

Legend: N prompts, T tokens a prompt (5 of the decoder and those of the prompt), C channels, H heads, D channels a head,
K image tokens, h w rows and columns of the image embedding, M masks a prompt.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from threading import Barrier
from typing import Any, Protocol

import torch
from torch import Tensor

from sam_pipeline.config import ResolvedPrecision
from sam_pipeline.masks.decoder.batched_image_side import BatchedImageSide
from sam_pipeline.masks.decoder.cpu.image_side import LowRankImageSide
from sam_pipeline.masks.decoder.image_side import (
    AfterFirst,
    AfterSecond,
    ImageSide,
    ImageSideWeights,
    Shared,
    SharedTokens,
    decoder_layers,
)
from sam_pipeline.masks.decoder.token_side import (
    Read,
    TokenSide,
    below_each_other,
    has_heads_alike,
)
from sam_pipeline.masks.prediction import DTYPES, exact_float32
from sam_pipeline.model.networks.linear import linear
from sam_pipeline.model.sam import Sam

logger = logging.getLogger(__name__)

# Prompts with many points decoded at once by a thread of a CPU; several copies of their image tokens are in memory.
_CPU_PROMPTS_AT_ONCE = 8

IouFilter = Callable[[Tensor], Tensor]
"""Chooses masks by predicted IoU, before any is upscaled: iou_predictions (n, M) float32 → keep_mask (n, M) bool."""


@dataclass(frozen=True)
class SharedImage:
    """What all prompts of an image share."""

    tokens: SharedTokens
    by_image_side: list[Any]
    """What each image side has computed from them."""


@dataclass(frozen=True)
class DecodedPrompts:
    """Predicted IoU of all masks, and the logits of those to keep."""

    iou_predictions: Tensor
    """(N, M) float32."""
    keep_mask: Tensor
    """(N, M) bool: which masks were upscaled."""
    low_res_masks: Tensor
    """Their logits, (masks, 4 * rows, 4 * w) float32, in the order of prompts, then masks."""


class PromptDecoder(Protocol):
    """What decodes the prompts of an image: `SharedDecoder`, or `PlainDecoder`."""

    def share(self, image_embedding: Tensor) -> Any:
        """See `SharedDecoder.share`."""
        ...

    def decode(
        self,
        shared: Any,
        points: tuple[Tensor, Tensor] | None,
        iou_filter: IouFilter,
        num_rows: int,
        boxes: Tensor | None = None,
        multimask_output: bool = True,
    ) -> DecodedPrompts:
        """See `SharedDecoder.decode`; `shared` is what `share` returned."""
        ...

    def in_float32(self) -> PromptDecoder | None:
        """See `SharedDecoder.in_float32`."""
        ...


class SharedDecoder:
    """The mask decoder of a model, for point and box prompts.

    Args:
        sam: the networks, in float32, in evaluation mode, on the device to use. Weights are read when this is made.
        precision: arithmetic of the image tokens on a GPU. All else, and everything on a CPU, is float32.
    """

    @exact_float32()
    def __init__(self, sam: Sam, precision: ResolvedPrecision = "fp32") -> None:
        self._sam = sam
        self._exact: SharedDecoder | None = None
        self._dtype = torch.float32 if sam.device.type == "cpu" else DTYPES[precision]
        weights = ImageSideWeights.of(sam)
        self._image_sides = _image_sides(weights, self._dtype)
        self._token_side = _token_side(sam, self._dtype)
        self._no_mask = sam.prompt_encoder.no_mask_embed.weight.detach()
        # Projections of the image tokens in the first layer. Those of their positions are added like a bias.
        layer, _ = decoder_layers(sam)
        to_image, to_tokens = layer.cross_attn_token_to_image, layer.cross_attn_image_to_token
        self._num_heads, width = to_image.num_heads, to_image.internal_dim
        self._projection, bias = below_each_other(to_image.k_proj, to_image.v_proj, to_tokens.q_proj)
        self._projected_pe = (weights.key_pe @ self._projection.T).add_(bias)  # (K, 3 * H * D)
        self._projected_pe[:, width : 2 * width] = bias[width : 2 * width]  # values are without positions
        # On a CPU each thread decodes prompts of its own.
        self._pool = _single_threaded_pool() if sam.device.type == "cpu" and torch.get_num_threads() > 1 else None

    def in_float32(self) -> SharedDecoder | None:
        """A decoder for prompts whose predicted IoU is no number here; None if float32 is what this one computes in.

        In fp16, whose range ends at 65,504, an image token beyond it makes the scores of the prompts that attend to it
        NaN.
        """
        if self._dtype != torch.float16:
            return None
        if self._exact is None:
            logger.warning(
                "prompts exceed the range of fp16 in the mask decoder: such prompts are decoded again in fp32, which "
                "is slow; if they are many, use precision bf16"
            )
            self._exact = SharedDecoder(self._sam)
        return self._exact

    @torch.no_grad()
    @exact_float32()
    def share(self, image_embedding: Tensor) -> SharedImage:
        """Compute what all prompts of an image share, from its embedding, (1, C, h, w) of any float type."""
        embedding = image_embedding[0].flatten(1).T
        image_tokens = self._no_mask.new_empty(embedding.shape).copy_(embedding).add_(self._no_mask)  # (K, C)
        projected = linear(image_tokens, self._projection).add_(self._projected_pe)
        by_head = projected.view(len(projected), 3, self._num_heads, -1).permute(1, 2, 0, 3)  # (3, H, K, D)
        keys, values, image_queries = by_head.new_empty(by_head.shape, dtype=self._dtype).copy_(by_head)
        tokens = SharedTokens(
            image_tokens=image_tokens,
            size=(image_embedding.shape[2], image_embedding.shape[3]),
            keys=keys,
            values=values,
            image_queries=image_queries,
        )
        return SharedImage(tokens, [side.share(tokens) for side in self._image_sides])

    @exact_float32()
    def decode(
        self,
        shared: SharedImage,
        points: tuple[Tensor, Tensor] | None,
        iou_filter: IouFilter,
        num_rows: int,
        boxes: Tensor | None = None,
        multimask_output: bool = True,
    ) -> DecodedPrompts:
        """Decode prompts of an image.

        Args:
            shared: from `share`.
            points: coordinates (N, P, 2) in pixels, model input frame, and labels (N, P).
            iou_filter: which masks to upscale. Called for some of the prompts at a time, on a CPU in several threads.
            num_rows: rows of the embedding to upscale; those below hold only padding.
            boxes: (N, 4) xyxy, model input frame.
            multimask_output: three masks a prompt (M = 3) rather than one.
        """
        pe = self._token_side.embed(points, boxes)
        read = self._token_side.read(multimask_output)
        image_side, of_image = next(
            (side, of_image)
            for side, of_image in zip(self._image_sides, shared.by_image_side, strict=True)
            if pe.shape[1] <= side.max_tokens
        )
        chunks = [some for some in torch.split(pe, image_side.prompts_at_once) if len(some)]
        decode_some = partial(self._decode_some, image_side, shared.tokens, of_image, iou_filter, num_rows, read)
        parts = list(self._pool.map(decode_some, chunks) if self._pool else map(decode_some, chunks))
        if len(parts) == 1:
            return parts[0]
        no_scores = pe.new_empty((0, read.num_masks))
        no_masks = pe.new_empty((0, 4 * num_rows, 4 * shared.tokens.size[1]))
        return DecodedPrompts(
            torch.cat([no_scores, *(part.iou_predictions for part in parts)]),
            torch.cat([no_scores.bool(), *(part.keep_mask for part in parts)]),
            torch.cat([no_masks, *(part.low_res_masks for part in parts)]),
        )

    @torch.no_grad()  # a thread of the pool does not inherit it
    def _decode_some(
        self,
        image_side: ImageSide[Shared, AfterFirst, AfterSecond],
        image: SharedTokens,
        of_image: Shared,
        iou_filter: IouFilter,
        num_rows: int,
        read: Read,
        pe: Tensor,
    ) -> DecodedPrompts:
        token_side = self._token_side
        tokens, keys, values, queries = token_side.first(pe, image)
        after_first, attended = image_side.update_first(of_image, keys, values, queries)
        tokens, keys, values, queries = token_side.second(tokens, attended, pe, read)
        after_second, attended = image_side.update_second(after_first, keys, values, queries)
        iou_predictions, hyper_in = token_side.final(tokens, attended, read)
        keep_mask = iou_filter(iou_predictions)
        low_res_masks = image_side.upscale(after_second, hyper_in, keep_mask, image.size, num_rows)
        return DecodedPrompts(iou_predictions, keep_mask, low_res_masks)


def _image_sides(weights: ImageSideWeights, dtype: torch.dtype) -> list[ImageSide[Any, Any, Any]]:
    """The image sides for the device of the weights, with image tokens of that type, fastest first."""
    device = weights.key_pe.device
    if device.type == "cpu":
        batched = BatchedImageSide(weights, prompts_at_once=_CPU_PROMPTS_AT_ONCE)
        return [LowRankImageSide(weights), batched] if LowRankImageSide.takes(weights) else [batched]
    batched = BatchedImageSide(weights, dtype)
    if dtype == torch.float32 or device.type != "cuda":
        return [batched]  # exact float32 takes no tensor cores: cuBLAS is best at it
    if (missing := _missing_for_triton(device)) is not None:
        logger.warning("%s: prompts are decoded by batched products, several times slower than by our kernels", missing)
        return [batched]
    # Imported here: Triton comes with torch for CUDA alone.
    from sam_pipeline.masks.decoder.gpu.image_side import HOPPER, OTHERS, TritonImageSide

    is_hopper = torch.cuda.get_device_capability(device)[0] == 9
    return [TritonImageSide(weights, dtype, HOPPER if is_hopper else OTHERS), batched]


def _missing_for_triton(device: torch.device) -> str | None:
    """What our kernels lack on a GPU; None if nothing."""
    major, minor = torch.cuda.get_device_capability(device)
    if major < 8:
        return f"{torch.cuda.get_device_name(device)} has compute capability {major}.{minor}, less than 8.0"
    return "Triton is not installed" if find_spec("triton") is None else None


def _token_side(sam: Sam, dtype: torch.dtype) -> TokenSide:
    """The token side for the device of the networks."""
    if sam.device.type == "cuda" and _missing_for_triton(sam.device) is None and has_heads_alike(sam):
        # Imported here: as above.
        from sam_pipeline.masks.decoder.gpu.token_side import TritonTokenSide

        return TritonTokenSide(sam, dtype)
    return TokenSide(sam, dtype)


def _single_threaded_pool() -> ThreadPoolExecutor:
    """As many threads as torch uses, in which torch uses one."""
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, "mask-decoder", initializer=_use_one_thread)
    all_started = Barrier(threads + 1)
    for _ in range(threads):
        pool.submit(all_started.wait)
    all_started.wait()
    torch.set_num_threads(threads)  # the pool's threads have also set the number for those that start later
    return pool


def _use_one_thread() -> None:
    """Have torch use one thread when called from this one."""
    torch.set_num_threads(1)
    # A thread's first get_num_threads resets its count to torch's default for new threads: ask while that is still 1.
    torch.get_num_threads()
