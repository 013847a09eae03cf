"""The whole Segment Anything model: three networks and the fixed arithmetic before and after them.

Reproduces segment_anything/modeling/sam.py (Kirillov et al. 2023).

Legend: B images or prompts, M masks a prompt, h w pixels of a resized image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam_pipeline.model.networks.image_encoder import ImageEncoderViT
from sam_pipeline.model.networks.mask_decoder import MaskDecoder
from sam_pipeline.model.networks.prompt_encoder import PromptEncoder
from sam_pipeline.model.networks.tiny_vit import TinyViT
from sam_pipeline.model.networks.two_way_transformer import TwoWayTransformer


class AbsentEncoder(nn.Module):
    """Stand-in for an image encoder that is not needed: it keeps the input size and has no weights."""

    def __init__(self, img_size: int) -> None:
        super().__init__()
        self.img_size = img_size


class Sam(nn.Module):
    """Holds the networks.

    This project runs them one by one, so that an image is encoded once for all its prompts; called, they run on whole
    records, as in the official package.

    Args:
        image_encoder: ViT or, for MobileSAM, TinyViT.
        prompt_encoder: prompts to embeddings.
        mask_decoder: embeddings to masks.
        pixel_mean: of each channel, 0 to 255; ImageNet's.
        pixel_std: deviation of each channel.
    """

    mask_threshold: ClassVar[float] = 0.0
    """Logits above it belong to the mask."""
    image_format: ClassVar[str] = "RGB"
    """Order of the channels that the networks were trained on."""

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        image_encoder: ImageEncoderViT | TinyViT | AbsentEncoder,
        prompt_encoder: PromptEncoder,
        mask_decoder: MaskDecoder,
        pixel_mean: Sequence[float] = (123.675, 116.28, 103.53),
        pixel_std: Sequence[float] = (58.395, 57.12, 57.375),
    ) -> None:
        super().__init__()
        self.image_encoder = image_encoder
        self.prompt_encoder = prompt_encoder
        self.mask_decoder = mask_decoder
        # Explicitly on the CPU: the registry builds networks on the meta device, and no checkpoint fills these.
        mean = torch.tensor(pixel_mean, device="cpu").view(-1, 1, 1)
        std = torch.tensor(pixel_std, device="cpu").view(-1, 1, 1)
        self.register_buffer("pixel_mean", mean, persistent=False)
        self.register_buffer("pixel_std", std, persistent=False)

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.pixel_mean.device

    def drop_image_encoder(self) -> None:
        """Let the weights of the image encoder go: 2.5 GB in ViT-H, of which decoding needs none."""
        self.image_encoder = AbsentEncoder(self.image_encoder.img_size)

    def drop_mask_decoder(self) -> None:
        """Let the prompt encoder and the mask decoder go, which encoding does not need."""
        del self.prompt_encoder, self.mask_decoder

    @torch.no_grad()
    def forward(self, batched_input: Sequence[Mapping[str, Any]], multimask_output: bool) -> list[dict[str, Tensor]]:
        """Predict the masks of prompts on several images, whose sizes may differ.

        Args:
            batched_input: a record an image: "image", (3, h, w), 0 to 255, resized for the model, unpadded;
                "original_size", (H, W); and prompts in the model input frame, as many of each kind as it has:
                "point_coords" (N, P, 2) with "point_labels" (N, P), "boxes" (N, 4) xyxy, "mask_inputs" logits
                (N, 1, 256, 256).
            multimask_output: three masks a prompt (M = 3) rather than one.

        Returns:
            A record an image: "masks" (N, M, H, W) bool, "iou_predictions" (N, M), "low_res_logits" (N, M, 256, 256).
        """
        images = torch.stack([self.preprocess(record["image"]) for record in batched_input])
        outputs = []
        for record, image_embedding in zip(batched_input, self.image_encoder(images), strict=True):
            points = (record["point_coords"], record["point_labels"]) if "point_coords" in record else None
            sparse_embeddings, dense_embeddings = self.prompt_encoder(
                points=points, boxes=record.get("boxes"), masks=record.get("mask_inputs")
            )
            low_res_logits, iou_predictions = self.mask_decoder(
                image_embeddings=image_embedding[None],
                image_pe=self.prompt_encoder.get_dense_pe(),
                sparse_prompt_embeddings=sparse_embeddings,
                dense_prompt_embeddings=dense_embeddings,
                multimask_output=multimask_output,
            )
            masks = self.postprocess_masks(low_res_logits, record["image"].shape[-2:], record["original_size"])
            outputs.append(
                {
                    "masks": masks > self.mask_threshold,
                    "iou_predictions": iou_predictions,
                    "low_res_logits": low_res_logits,
                }
            )
        return outputs

    def preprocess(self, images: Tensor) -> Tensor:
        """Normalise pixels, then pad with zeros at the bottom and right to the square that the encoder takes.

        Args:
            images: (B, 3, h, w) or (3, h, w), uint8 or float in 0 to 255, RGB, longest side at most ``img_size``.

        Returns:
            The same rank, float32, (..., 3, img_size, img_size).

        Raises:
            ValueError: the image is larger than the encoder's input.
        """
        img_size = self.image_encoder.img_size
        h, w = images.shape[-2:]
        if max(h, w) > img_size:
            raise ValueError(f"image must be at most {img_size} pixels a side, got {h} x {w}: resize it first")
        normalised = (images - self.pixel_mean) / self.pixel_std
        return F.pad(normalised, (0, img_size - w, 0, img_size - h))

    def postprocess_masks(self, masks: Tensor, input_size: tuple[int, int], original_size: tuple[int, int]) -> Tensor:
        """Enlarge mask logits to the model input, cut its padding off, and resize to the original image.

        Args:
            masks: logits, (B, M, 256, 256) float, in the frame of the padded model input.
            input_size: (h, w) of the resized image before padding.
            original_size: (height, width) of the image before resizing.

        Returns:
            Logits (B, M, *original_size) float, in the frame of the original image.
        """
        img_size = self.image_encoder.img_size
        masks = F.interpolate(masks, (img_size, img_size), mode="bilinear", align_corners=False)
        masks = masks[..., : input_size[0], : input_size[1]]
        return F.interpolate(masks, original_size, mode="bilinear", align_corners=False)


def assemble_sam(image_encoder: ImageEncoderViT | TinyViT | AbsentEncoder) -> Sam:
    """Join an image encoder with the prompt encoder and mask decoder that all SAM models share.

    Args:
        image_encoder: of any size, or its stand-in; its embedding must have 256 channels and a sixteenth of the
            input's resolution.
    """
    img_size = image_encoder.img_size
    embed_dim = 256
    return Sam(
        image_encoder,
        PromptEncoder(
            embed_dim=embed_dim,
            image_embedding_size=(img_size // 16, img_size // 16),
            input_image_size=(img_size, img_size),
            mask_in_chans=16,
        ),
        MaskDecoder(
            transformer_dim=embed_dim,
            transformer=TwoWayTransformer(depth=2, embedding_dim=embed_dim, num_heads=8, mlp_dim=2048),
        ),
    )
