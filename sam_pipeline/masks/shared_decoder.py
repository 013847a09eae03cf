"""The mask decoder for many prompts of one image, with everything that the prompts share computed once.

The same result as model/mask_decoder.py and model/two_way_transformer.py up to rounding, for a third of the arithmetic
and without a copy of the image tokens for every prompt:

- The first layer sees the same image tokens for every prompt: what it projects from them is computed once an image.
- Later layers never project image tokens. T tokens of 8 heads are 8 T vectors, fewer than the channels of a
  projection: scores are keys · (W_k^T q), and values are averaged before they are projected. A bias of the keys drops
  out of a softmax over keys, and a bias of the values adds up to itself, since weights sum to one.
- Predicted IoU needs the tokens alone, so the masks of prompts that fail are never upscaled.
- What no mask is made of is not attended: of the tokens of a prompt the last attention updates those that are read.
- Transposed convolutions whose stride is their kernel are matrix products of single pixels, done for the rows that
  hold the image; the padding below is attended but never upscaled.

The token side, hundreds of small matrices, is done for many prompts at once; how the image side is done best depends on
the device, see image_side.py.

Legend: N prompts, T tokens a prompt (5 of the decoder and those of the prompt), C channels, H heads, D channels a head,
K image tokens, h w rows and columns of the image embedding, M masks a prompt.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from threading import Barrier

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam_pipeline.config import ResolvedPrecision
from sam_pipeline.masks.batched_image_side import BatchedImageSide
from sam_pipeline.masks.image_side import ImageSide, ImageSideWeights, SharedTokens, TiledImageSide
from sam_pipeline.masks.prediction import decode_prompts, exact_float32
from sam_pipeline.model.sam import Sam
from sam_pipeline.model.two_way_transformer import Attention, TwoWayAttentionBlock


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
    """The mask decoder of a model, for point and box prompts.

    Args:
        sam: the networks, in float32, in evaluation mode, on the device to use. Weights are read when this is made.
        precision: arithmetic of the image tokens on a GPU. All else, and everything on a CPU, is float32.
    """

    def __init__(self, sam: Sam, precision: ResolvedPrecision = "fp32") -> None:
        self._decoder = sam.mask_decoder
        self._prompt_encoder = sam.prompt_encoder
        first, second = sam.mask_decoder.transformer.layers
        assert isinstance(first, TwoWayAttentionBlock), type(first)
        assert isinstance(second, TwoWayAttentionBlock), type(second)
        self._first, self._second = first, second
        self._final = sam.mask_decoder.transformer.final_attn_token_to_image
        self._final_norm = sam.mask_decoder.transformer.norm_final_attn
        self._no_mask = sam.prompt_encoder.no_mask_embed.weight.detach()
        weights = ImageSideWeights.of(sam)
        self._key_pe = weights.key_pe
        self._dtype = torch.bfloat16 if precision == "bf16" and sam.device.type != "cpu" else torch.float32
        self._image_sides = _image_sides(weights, self._dtype)
        # On a CPU each thread decodes its own prompts: their image tokens stay in the cache of its core.
        self._pool = _single_threaded_pool() if sam.device.type == "cpu" and torch.get_num_threads() > 1 else None

    @exact_float32()
    def share(self, image_embedding: Tensor) -> SharedTokens:
        """Compute what all prompts of an image share, from its embedding, (1, C, h, w) float32."""
        keys = (image_embedding[0].flatten(1).T + self._no_mask).contiguous()
        to_image, to_tokens = self._first.cross_attn_token_to_image, self._first.cross_attn_image_to_token
        with_pe = keys + self._key_pe
        return SharedTokens(
            keys=keys.to(self._dtype),
            size=(image_embedding.shape[2], image_embedding.shape[3]),
            key_heads=_heads(to_image.k_proj(with_pe), to_image).transpose(0, 1).to(self._dtype).contiguous(),
            value_heads=_heads(to_image.v_proj(keys), to_image).transpose(0, 1).to(self._dtype).contiguous(),
            image_queries=to_tokens.q_proj(with_pe).to(self._dtype),
        )

    @exact_float32()
    def decode(
        self,
        shared: SharedTokens,
        points: tuple[Tensor, Tensor] | None,
        wanted: Callable[[Tensor], Tensor],
        num_rows: int,
        boxes: Tensor | None = None,
        multimask_output: bool = True,
    ) -> DecodedPrompts:
        """Decode prompts of an image.

        Args:
            shared: from `share`.
            points: coordinates (N, P, 2) in pixels, model input frame, and labels (N, P).
            wanted: which masks to upscale, (n, M) predicted IoU → (n, M) bool, for some of the prompts at a time.
            num_rows: rows of the embedding to upscale; those below hold only padding.
            boxes: (N, 4) xyxy, model input frame.
            multimask_output: three masks a prompt (M = 3) rather than one.
        """
        sparse_prompt_embeddings, _ = self._prompt_encoder(points=points, boxes=boxes, masks=None)
        slots = slice(1, None) if multimask_output else slice(0, 1)  # the first mask token is for single masks
        num_tokens = 1 + self._decoder.num_mask_tokens + sparse_prompt_embeddings.shape[1]
        image_side = next(side for side in self._image_sides if num_tokens <= side.max_tokens)
        chunks = [some for some in sparse_prompt_embeddings.split(image_side.prompts_at_once) if len(some)]
        decode_some = partial(self._decode_some, image_side, shared, wanted, num_rows, slots)
        parts = list(self._pool.map(decode_some, chunks) if self._pool else map(decode_some, chunks))
        num_masks = len(range(self._decoder.num_mask_tokens)[slots])
        no_scores = sparse_prompt_embeddings.new_empty((0, num_masks))
        no_masks = no_scores.new_empty((0, 4 * num_rows, 4 * shared.size[1]))
        return DecodedPrompts(
            torch.cat([no_scores, *(part.iou_predictions for part in parts)]),
            torch.cat([no_scores.bool(), *(part.kept for part in parts)]),
            torch.cat([no_masks, *(part.low_res_masks for part in parts)]),
        )

    @torch.no_grad()  # a thread of the pool does not inherit it
    def _decode_some(
        self,
        image_side: ImageSide,
        shared: SharedTokens,
        wanted: Callable[[Tensor], Tensor],
        num_rows: int,
        slots: slice,
        sparse: Tensor,
    ) -> DecodedPrompts:
        decoder, first, second, final = self._decoder, self._first, self._second, self._final
        own_tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
        pe = torch.cat([own_tokens.expand(len(sparse), -1, -1), sparse], dim=1)  # (N, T, C): tokens are their own pe

        queries = first.norm1(first.self_attn(q=pe, k=pe, v=pe))
        attended = self._attend_shared_keys(shared, first.cross_attn_token_to_image.q_proj(queries + pe))
        queries = first.norm2(queries + first.cross_attn_token_to_image.out_proj(attended))
        queries = first.norm3(queries + first.mlp(queries))
        to_tokens = first.cross_attn_image_to_token
        key_scores = _block_diagonal(to_tokens.k_proj(queries + pe) / _root(to_tokens), to_tokens)
        values = _projected_values(to_tokens, queries)

        with_pe = queries + pe
        queries = second.norm1(queries + second.self_attn(q=with_pe, k=with_pe, v=queries))
        to_image = second.cross_attn_token_to_image
        pulls = _absorb(to_image.q_proj(queries + pe), to_image.k_proj, to_image)
        state, averages = image_side.update_first(shared, key_scores, values, pulls)
        queries = second.norm2(queries + _project_averages(to_image, averages))
        queries = second.norm3(queries + second.mlp(queries))

        to_tokens = second.cross_attn_image_to_token
        keys = to_tokens.k_proj(queries + pe)
        pushes = _absorb(keys, to_tokens.q_proj, to_tokens)
        push_bias = (_heads(keys, to_tokens) * _heads(to_tokens.q_proj.bias, to_tokens)).sum(-1) / _root(to_tokens)
        push_bias = push_bias.transpose(1, 2).flatten(1)  # (N, H * T)
        values = _projected_values(to_tokens, queries)
        # Of the last attention only the IoU token and those of the masks that are asked for are read.
        read = [0, *range(1, 1 + decoder.num_mask_tokens)[slots]]
        queries, pe = queries[:, read], pe[:, read]
        pulls = _absorb(final.q_proj(queries + pe), final.k_proj, final)
        state, averages = image_side.update_second(state, pushes, push_bias, values, pulls)
        queries = self._final_norm(queries + _project_averages(final, averages))

        iou_predictions = decoder.iou_prediction_head(queries[:, 0])[:, slots]
        kept = wanted(iou_predictions)
        heads = decoder.output_hypernetworks_mlps[slots]
        hyper_in = torch.stack([head(queries[:, 1 + m]) for m, head in enumerate(heads)], dim=1)  # (N, M, C / 8)
        return DecodedPrompts(iou_predictions, kept, image_side.upscale(state, hyper_in, kept, shared.size, num_rows))

    def _attend_shared_keys(self, shared: SharedTokens, q: Tensor) -> Tensor:
        """First layer, tokens to image: q (N, T, H * D) → (N, T, H * D)."""
        by_head = _heads(q.to(self._dtype), self._first.cross_attn_token_to_image).flatten(0, 1).transpose(0, 1)
        attended = F.scaled_dot_product_attention(by_head[None], shared.key_heads[None], shared.value_heads[None])[0]
        return attended.transpose(0, 1).reshape(q.shape).to(q.dtype)  # from (H, N * T, D)


def _image_sides(weights: ImageSideWeights, dtype: torch.dtype) -> list[ImageSide]:
    """The passes for the device of the weights, with image tokens of that type, best first."""
    device = weights.key_pe.device
    if device.type == "cpu":
        return [TiledImageSide(weights)]
    general = BatchedImageSide(weights, dtype)
    # The kernels need Hopper's shared memory. Exact float32 takes no tensor cores: cuBLAS is best at it.
    if dtype == torch.bfloat16 and device.type == "cuda" and torch.cuda.get_device_capability(device)[0] == 9:
        from sam_pipeline.masks.triton_image_side import TritonImageSide  # Triton comes with torch for CUDA alone

        return [TritonImageSide(weights, dtype), general]
    return [general]


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
        points: tuple[Tensor, Tensor] | None,
        wanted: Callable[[Tensor], Tensor],
        num_rows: int,
        boxes: Tensor | None = None,
        multimask_output: bool = True,
    ) -> DecodedPrompts:
        """Decode prompts of an image; see `SharedDecoder.decode`."""
        low_res_masks, iou_predictions = decode_prompts(
            self._sam, shared, points, boxes, multimask_output=multimask_output
        )
        kept = wanted(iou_predictions)
        return DecodedPrompts(iou_predictions, kept, low_res_masks[kept][:, : 4 * num_rows])
