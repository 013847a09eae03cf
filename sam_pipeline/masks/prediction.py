"""The two halves of SAM as functions of their inputs: images → embeddings, embeddings and prompts → masks.

Nothing here remembers an image. B images, N prompts, M masks per prompt; H W pixels of the original frame (or crop),
h w pixels of the model input.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sam_pipeline.config import ResolvedPrecision
from sam_pipeline.model.sam import Sam

DTYPES: Mapping[ResolvedPrecision, torch.dtype] = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}
"""The dtype of each precision: of image embeddings, and of the operands of matrix products in that precision."""

_SUMS_IN_HALF = (
    "allow_fp16_reduced_precision_reduction",
    "allow_bf16_reduced_precision_reduction",
    "allow_fp16_accumulation",
)

logger = logging.getLogger(__name__)


@torch.no_grad()
def encode(sam: Sam, input_images: Sequence[NDArray[np.uint8]], precision: ResolvedPrecision = "fp32") -> Tensor:
    """Run the image encoder on one batch of images, which may differ in shape.

    Images travel to the device as bytes and are normalised and padded there. In fp16, whose range ends at 65,504, an
    image whose embedding is not finite is encoded again in fp32.

    Args:
        sam: the networks.
        input_images: each (h, w, 3) uint8, model input frame, unpadded, long side sam.image_encoder.img_size.
        precision: arithmetic of the image encoder; normalisation is always float32.

    Returns:
        (B, 256, 64, 64) image embeddings on the device, float32, float16 or bfloat16 as `precision` says.

    Raises:
        ValueError: there are no images, or one of them is larger than the model input.
    """
    if not input_images:
        raise ValueError("input_images must hold at least one image, got none")
    with exact_float32():
        batch = torch.cat([sam.preprocess(_to_device(image, sam.device)) for image in input_images])
        image_embeddings = _run_encoder(sam, batch, precision)
        if precision == "fp16":
            _encode_overflowed_again(sam, batch, image_embeddings)
    return image_embeddings


def _run_encoder(sam: Sam, batch: Tensor, precision: ResolvedPrecision) -> Tensor:
    """(B, 3, img_size, img_size) float32, normalised and padded → (B, 256, 64, 64) of the precision's type."""
    dtype = DTYPES[precision]
    with torch.autocast(sam.device.type, dtype=dtype, enabled=dtype != torch.float32):
        image_embeddings: Tensor = sam.image_encoder(batch)
    return image_embeddings.to(dtype)


def _encode_overflowed_again(sam: Sam, batch: Tensor, image_embeddings: Tensor) -> None:
    """Replace float16 embeddings that are not finite, (256, 64, 64) each, by those of float32.

    What overflows inside the encoder becomes NaN in its next norm, and stays it to the end.
    """
    overflowed = ~image_embeddings.flatten(1).isfinite().all(dim=1)  # (B,)
    for i in overflowed.nonzero().flatten().tolist():
        _warn_of_overflow()
        # One by one: float32 takes more memory.
        image_embeddings[i] = _run_encoder(sam, batch[i : i + 1], "fp32")[0]


@torch.no_grad()
def decode_prompts(
    sam: Sam,
    image_embeddings: Tensor,
    points: tuple[Tensor, Tensor] | None = None,
    boxes: Tensor | None = None,
    masks: Tensor | None = None,
    multimask_output: bool = True,
) -> tuple[Tensor, Tensor]:
    """Run prompt encoder and mask decoder in float32 on N prompts of one image.

    Args:
        sam: the networks.
        image_embeddings: (1, 256, 64, 64), any float type.
        points: coordinates (N, P, 2) in pixels, model input frame, and labels (N, P): 1 foreground, 0 background.
            Coordinates may be float64, and then stay so until they have been divided by the input size.
        boxes: (N, 4) xyxy, model input frame.
        masks: (N, 1, 256, 256) logits of an earlier prediction.
        multimask_output: three masks a prompt (M = 3) rather than one.

    Returns:
        Mask logits (N, M, 256, 256) and iou_predictions (N, M), both float32.
    """
    with exact_float32():
        sparse_embeddings, dense_embeddings = sam.prompt_encoder(points=points, boxes=boxes, masks=masks)
        low_res_masks, iou_predictions = sam.mask_decoder(
            image_embeddings=image_embeddings.to(torch.float32),
            image_pe=sam.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse_embeddings,
            dense_prompt_embeddings=dense_embeddings,
            multimask_output=multimask_output,
        )
    return low_res_masks, iou_predictions


@contextmanager
def exact_float32() -> Iterator[None]:
    """Compute in float32, and sum products of half types in float32, whatever the caller's settings are.

    CUDA would compute products in TF32, as cuDNN does by default: its 10-bit mantissa moves masks. By default it would
    also add the parts of a long sum in the half type. Autocast, in which scripts run the predictor, would mix types
    that the fast decoder keeps apart.
    """
    # Not the older allow_tf32: reading that raises where a user has set precisions the newer way.
    matmul = torch.backends.cuda.matmul
    conv = torch.backends.cudnn.conv  # type: ignore[attr-defined]  # the newer way, which torch's stubs lack
    before = matmul.fp32_precision, conv.fp32_precision
    sums_before = [getattr(matmul, name) for name in _SUMS_IN_HALF]
    matmul.fp32_precision = conv.fp32_precision = "ieee"
    for name in _SUMS_IN_HALF:
        setattr(matmul, name, False)
    try:
        with ExitStack() as stack:
            for device_type in filter(torch.is_autocast_enabled, ("cpu", "cuda")):
                stack.enter_context(torch.autocast(device_type, enabled=False))
            yield
    finally:
        matmul.fp32_precision, conv.fp32_precision = before
        for name, value in zip(_SUMS_IN_HALF, sums_before, strict=True):
            setattr(matmul, name, value)


@functools.cache  # once a process
def _warn_of_overflow() -> None:
    logger.warning(
        "an image exceeds the range of fp16 in the image encoder: such images are encoded again in fp32, which is "
        "slow; if they are many, use precision bf16"
    )


def _to_device(image: NDArray[np.uint8], device: torch.device) -> Tensor:
    """(h, w, 3) uint8 → (1, 3, h, w) uint8 on the device."""
    # torch.tensor copies; torch.as_tensor would share, and warns of, the read-only memory that Arrow hands out.
    return torch.tensor(image).to(device).permute(2, 0, 1)[None]
