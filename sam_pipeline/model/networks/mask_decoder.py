"""The mask decoder of SAM: image and prompt embeddings to masks and predictions of their quality.

Reproduces segment_anything/modeling/mask_decoder.py. Parameter names are the official ones.

Legend: B prompts of one image, N sparse embeddings a prompt, M masks a prompt, C channels, h w rows and columns of the
image embedding.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sam_pipeline.model.networks.layers import MLP, LayerNorm2d
from sam_pipeline.model.networks.two_way_transformer import TwoWayTransformer


class MaskDecoder(nn.Module):
    """Predicts masks for prompts on one image.

    Args:
        transformer_dim: C, a multiple of 8.
        transformer: updates tokens and image embedding.
        num_multimask_outputs: masks for an ambiguous prompt, beside the single mask for an unambiguous one.
        iou_head_depth: linear layers of the quality head.
        iou_head_hidden_dim: their width.
    """

    def __init__(
        self,
        *,
        transformer_dim: int,
        transformer: TwoWayTransformer,
        num_multimask_outputs: int = 3,
        iou_head_depth: int = 3,
        iou_head_hidden_dim: int = 256,
    ) -> None:
        super().__init__()
        self.transformer_dim = transformer_dim
        self.transformer = transformer
        self.num_multimask_outputs = num_multimask_outputs
        self.num_mask_tokens = num_multimask_outputs + 1
        self.iou_token = nn.Embedding(1, transformer_dim)
        self.mask_tokens = nn.Embedding(self.num_mask_tokens, transformer_dim)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(transformer_dim, transformer_dim // 4, kernel_size=2, stride=2),
            LayerNorm2d(transformer_dim // 4),
            nn.GELU(),
            nn.ConvTranspose2d(transformer_dim // 4, transformer_dim // 8, kernel_size=2, stride=2),
            nn.GELU(),
        )
        self.output_hypernetworks_mlps = nn.ModuleList(
            MLP(transformer_dim, transformer_dim, transformer_dim // 8, num_layers=3)
            for _ in range(self.num_mask_tokens)
        )
        self.iou_prediction_head = MLP(transformer_dim, iou_head_hidden_dim, self.num_mask_tokens, iou_head_depth)

    def forward(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        sparse_prompt_embeddings: Tensor,
        dense_prompt_embeddings: Tensor,
        multimask_output: bool,
    ) -> tuple[Tensor, Tensor]:
        """Predict masks.

        Args:
            image_embeddings: of one image, (1, C, h, w) float.
            image_pe: positional encoding of the image embedding, (1, C, h, w) float.
            sparse_prompt_embeddings: points and boxes, (B, N, C) float.
            dense_prompt_embeddings: mask prompts, (B, C, h, w) float.
            multimask_output: the masks for an ambiguous prompt (M = 3) instead of the single one (M = 1).

        Returns:
            Mask logits (B, M, 4 * h, 4 * w) float in the frame of the padded model input, and predicted IoU (B, M).
        """
        masks, iou_predictions = self.predict_masks(  # by name, as subclasses of the official class are called
            image_embeddings=image_embeddings,
            image_pe=image_pe,
            sparse_prompt_embeddings=sparse_prompt_embeddings,
            dense_prompt_embeddings=dense_prompt_embeddings,
        )
        chosen = slice(1, None) if multimask_output else slice(0, 1)
        return masks[:, chosen], iou_predictions[:, chosen]

    def predict_masks(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        sparse_prompt_embeddings: Tensor,
        dense_prompt_embeddings: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Predict the single mask and the others; arguments and results as in ``forward``, with M = 4."""
        B, C = len(sparse_prompt_embeddings), image_embeddings.shape[1]
        output_tokens = torch.cat([self.iou_token.weight, self.mask_tokens.weight])
        tokens = torch.cat([output_tokens.expand(B, -1, -1), sparse_prompt_embeddings], dim=1)
        src = (image_embeddings + dense_prompt_embeddings).expand(B, -1, -1, -1)
        h, w = src.shape[-2:]

        tokens, src = self.transformer(src, image_pe, tokens)
        iou_token, mask_tokens = tokens[:, 0], tokens[:, 1 : 1 + self.num_mask_tokens]

        # Each mask token becomes a vector of weights, whose product with the upscaled embedding is its mask.
        upscaled = self.output_upscaling(src.transpose(1, 2).reshape(B, C, h, w))  # (B, C / 8, 4 * h, 4 * w)
        weights = torch.stack(
            [mlp(mask_tokens[:, index]) for index, mlp in enumerate(self.output_hypernetworks_mlps)], dim=1
        )  # (B, M, C / 8)
        masks = (weights @ upscaled.flatten(2)).reshape(B, self.num_mask_tokens, 4 * h, 4 * w)
        iou_predictions: Tensor = self.iou_prediction_head(iou_token)
        return masks, iou_predictions
