"""The mask decoder for many prompts of one image, with everything that the prompts share computed once.

The same result as mask_decoder.py and two_way_transformer.py of model/networks/ up to rounding, for a fraction of the
arithmetic and without a copy of the image tokens for every prompt. docs/decoder.md has the derivation.

Here the tokens of many prompts are updated together; an `ImageSide` for the device updates their image tokens.

Legend: N prompts, T tokens a prompt (5 of the decoder and those of the prompt), C channels, H heads, D channels a head,
K image tokens, h w rows and columns of the image embedding, M masks a prompt.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from threading import Barrier
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from sam_pipeline.config import ResolvedPrecision
from sam_pipeline.masks.decoder.batched_image_side import BatchedImageSide
from sam_pipeline.masks.decoder.image_side import (
    AfterFirst,
    AfterSecond,
    ImageSide,
    ImageSideWeights,
    Shared,
    SharedTokens,
    decoder_layers,
)
from sam_pipeline.masks.decoder.low_rank_image_side import LowRankImageSide
from sam_pipeline.masks.prediction import DTYPES, exact_float32
from sam_pipeline.model.networks.two_way_transformer import Attention
from sam_pipeline.model.sam import Sam

# Prompts with many points decoded at once by a thread of a CPU; several copies of their image tokens are in memory.
_CPU_PROMPTS_AT_ONCE = 8

# All but cuDNN's, which torch tries first on Hopper since 2.11: for each new shape it plans for up to a second, and the
# number of prompts is another from image to image.
_ATTENTION_BACKENDS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


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


class SharedDecoder:
    """The mask decoder of a model, for point and box prompts.

    Args:
        sam: the networks, in float32, in evaluation mode, on the device to use. Weights are read when this is made.
        precision: arithmetic of the image tokens on a GPU. All else, and everything on a CPU, is float32.
    """

    @exact_float32()
    def __init__(self, sam: Sam, precision: ResolvedPrecision = "fp32") -> None:
        self._decoder = sam.mask_decoder
        self._prompt_encoder = sam.prompt_encoder
        self._first, self._second = decoder_layers(sam)
        self._final = sam.mask_decoder.transformer.final_attn_token_to_image
        self._final_norm = sam.mask_decoder.transformer.norm_final_attn
        self._no_mask = sam.prompt_encoder.no_mask_embed.weight.detach()
        weights = ImageSideWeights.of(sam)
        self._key_pe = weights.key_pe
        self._dtype = torch.float32 if sam.device.type == "cpu" else DTYPES[precision]
        self._image_sides = _image_sides(weights, self._dtype)
        # On a CPU each thread decodes prompts of its own.
        self._pool = _single_threaded_pool() if sam.device.type == "cpu" and torch.get_num_threads() > 1 else None

    @exact_float32()
    def share(self, image_embedding: Tensor) -> SharedImage:
        """Compute what all prompts of an image share, from its embedding, (1, C, h, w) float32."""
        image_tokens = (image_embedding[0].flatten(1).T + self._no_mask).contiguous()  # (K, C)
        to_image, to_tokens = self._first.cross_attn_token_to_image, self._first.cross_attn_image_to_token
        with_pe = image_tokens + self._key_pe
        tokens = SharedTokens(
            image_tokens=image_tokens.to(self._dtype),
            size=(image_embedding.shape[2], image_embedding.shape[3]),
            keys=_by_head(to_image.k_proj(with_pe), to_image).to(self._dtype).contiguous(),
            values=_by_head(to_image.v_proj(image_tokens), to_image).to(self._dtype).contiguous(),
            image_queries=to_tokens.q_proj(with_pe).to(self._dtype),
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
        sparse_prompt_embeddings, _ = self._prompt_encoder(points=points, boxes=boxes, masks=None)
        slots = slice(1, None) if multimask_output else slice(0, 1)  # the first mask token is for unambiguous prompts
        num_tokens = 1 + self._decoder.num_mask_tokens + sparse_prompt_embeddings.shape[1]
        image_side, of_image = next(
            (side, of_image)
            for side, of_image in zip(self._image_sides, shared.by_image_side, strict=True)
            if num_tokens <= side.max_tokens
        )
        chunks = [some for some in sparse_prompt_embeddings.split(image_side.prompts_at_once) if len(some)]
        decode_some = partial(self._decode_some, image_side, shared.tokens, of_image, iou_filter, num_rows, slots)
        parts = list(self._pool.map(decode_some, chunks) if self._pool else map(decode_some, chunks))
        num_masks = len(range(self._decoder.num_mask_tokens)[slots])
        no_scores = sparse_prompt_embeddings.new_empty((0, num_masks))
        no_masks = no_scores.new_empty((0, 4 * num_rows, 4 * shared.tokens.size[1]))
        return DecodedPrompts(
            torch.cat([no_scores, *(part.iou_predictions for part in parts)]),
            torch.cat([no_scores.bool(), *(part.keep_mask for part in parts)]),
            torch.cat([no_masks, *(part.low_res_masks for part in parts)]),
        )

    @torch.no_grad()  # a thread of the pool does not inherit it
    def _decode_some(
        self,
        image_side: ImageSide[Shared, AfterFirst, AfterSecond],
        tokens: SharedTokens,
        of_image: Shared,
        iou_filter: IouFilter,
        num_rows: int,
        slots: slice,
        sparse: Tensor,
    ) -> DecodedPrompts:
        decoder, first, second, final = self._decoder, self._first, self._second, self._final
        own_tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
        pe = torch.cat([own_tokens.expand(len(sparse), -1, -1), sparse], dim=1)  # (N, T, C): tokens are their own pe

        queries = first.norm1(first.self_attn(q=pe, k=pe, v=pe))
        attended = self._attend_shared_keys(tokens, first.cross_attn_token_to_image.q_proj(queries + pe))
        queries = first.norm2(queries + first.cross_attn_token_to_image.out_proj(attended))
        queries = first.norm3(queries + first.mlp(queries))
        to_tokens = first.cross_attn_image_to_token
        keys, values = to_tokens.k_proj(queries + pe), to_tokens.v_proj(queries)

        with_pe = queries + pe
        queries = second.norm1(queries + second.self_attn(q=with_pe, k=with_pe, v=queries))
        to_image = second.cross_attn_token_to_image
        after_first, attended = image_side.update_first(of_image, keys, values, to_image.q_proj(queries + pe))
        queries = second.norm2(queries + to_image.out_proj(attended))
        queries = second.norm3(queries + second.mlp(queries))
        to_tokens = second.cross_attn_image_to_token
        keys, values = to_tokens.k_proj(queries + pe), to_tokens.v_proj(queries)

        # The output heads read the IoU token and the mask tokens in use: the final attention skips the others.
        read = [0, *range(1, 1 + decoder.num_mask_tokens)[slots]]
        queries, pe = queries[:, read], pe[:, read]
        after_second, attended = image_side.update_second(after_first, keys, values, final.q_proj(queries + pe))
        queries = self._final_norm(queries + final.out_proj(attended))

        iou_predictions = decoder.iou_prediction_head(queries[:, 0])[:, slots]
        keep_mask = iou_filter(iou_predictions)
        heads = decoder.output_hypernetworks_mlps[slots]
        hyper_in = torch.stack([head(queries[:, 1 + m]) for m, head in enumerate(heads)], dim=1)  # (N, M, C / 8)
        low_res_masks = image_side.upscale(after_second, hyper_in, keep_mask, tokens.size, num_rows)
        return DecodedPrompts(iou_predictions, keep_mask, low_res_masks)

    def _attend_shared_keys(self, tokens: SharedTokens, q: Tensor) -> Tensor:
        """First layer, tokens to image: q (N, T, H * D) → (N, T, H * D)."""
        by_head = _by_head(q.to(self._dtype).flatten(0, 1), self._first.cross_attn_token_to_image)
        # The choice holds for the whole process: on a CPU, where threads would undo each other's, it stays as it is.
        with nullcontext() if q.device.type == "cpu" else sdpa_kernel(_ATTENTION_BACKENDS):
            attended = F.scaled_dot_product_attention(by_head[None], tokens.keys[None], tokens.values[None])
        return attended[0].transpose(0, 1).reshape(q.shape).to(q.dtype)


def _image_sides(weights: ImageSideWeights, dtype: torch.dtype) -> list[ImageSide[Any, Any, Any]]:
    """The image sides for the device of the weights, with image tokens of that type, fastest first."""
    device = weights.key_pe.device
    if device.type == "cpu":
        return [LowRankImageSide(weights), BatchedImageSide(weights, prompts_at_once=_CPU_PROMPTS_AT_ONCE)]
    batched = BatchedImageSide(weights, dtype)
    # Triton's kernels need Hopper's shared memory. Exact float32 takes no tensor cores: cuBLAS is best at it.
    if dtype != torch.float32 and device.type == "cuda" and torch.cuda.get_device_capability(device)[0] == 9:
        # Imported here: Triton comes with torch for CUDA alone.
        from sam_pipeline.masks.decoder.triton_image_side import TritonImageSide

        return [TritonImageSide(weights, dtype), batched]
    return [batched]


def _by_head(x: Tensor, attn: Attention) -> Tensor:
    """(N, H * D) → (H, N, D)."""
    return x.view(len(x), attn.num_heads, -1).transpose(0, 1)


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
    # A thread's first question for its number replaces it by the one for new threads, which is 1 at this moment only.
    torch.get_num_threads()
