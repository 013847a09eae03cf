"""Prompt encoder, mask decoder and the enlargement of masks as one network without branches, for export to ONNX.

Has the constructor, inputs and outputs of `SamOnnxModel` in segment_anything/utils/onnx.py, and its results.

Legend: N points, M masks (1 of a single mask, else 4), H W pixels of the original image.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam_pipeline.model.sam import Sam

# Added to the score of the mask that is made for unambiguous prompts: from three points on (a box is two) it wins.
_PREFERENCE = 1000.0
_AMBIGUOUS_POINTS = 2.5


class SamOnnxModel(nn.Module):
    """Masks for the prompts on one image, whose embedding was computed elsewhere.

    Made to be exported; from Python SamPredictor is faster.

    Args:
        model: the networks, in evaluation mode.
        return_single_mask: the best mask only, rather than all four.
        use_stability_score: score masks by their stability in place of the predicted IoU.
        return_extra_metrics: return stability and area of the enlarged masks too.
    """

    def __init__(
        self,
        model: Sam,
        return_single_mask: bool,
        use_stability_score: bool = False,
        return_extra_metrics: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.mask_decoder = model.mask_decoder
        self.img_size = model.image_encoder.img_size
        self.return_single_mask = return_single_mask
        self.use_stability_score = use_stability_score
        self.stability_score_offset = 1.0
        self.return_extra_metrics = return_extra_metrics

    @torch.no_grad()
    def forward(
        self,
        image_embeddings: Tensor,
        point_coords: Tensor,
        point_labels: Tensor,
        mask_input: Tensor,
        has_mask_input: Tensor,
        orig_im_size: Tensor,
    ) -> tuple[Tensor, ...]:
        """Predict the masks of one object.

        Args:
            image_embeddings: (1, 256, 64, 64) float.
            point_coords: (1, N, 2) float, x and y in pixels, model input frame. The corners of a box are two points.
            point_labels: (1, N) float: 1 on the object, 0 off it, 2 top left and 3 bottom right corner of a box, -1
                padding. Without a box the network wants one point of padding, at (0, 0).
            mask_input: (1, 1, 256, 256) float, low-resolution logits of an earlier prediction, or anything.
            has_mask_input: (1,) float: 1 if mask_input counts, else 0.
            orig_im_size: (2,) float, H and W.

        Returns:
            Logits (1, M, H, W) in the original frame; scores (1, M); with return_extra_metrics then stability scores
            (1, M) and areas (1, M) int64 in pixels; low-resolution logits (1, M, 256, 256).
        """
        masks, scores = self.model.mask_decoder.predict_masks(
            image_embeddings=image_embeddings,
            image_pe=self.model.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=self._embed_points(point_coords, point_labels),
            dense_prompt_embeddings=self._embed_masks(mask_input, has_mask_input),
        )
        if self.use_stability_score:
            scores = self._stability_scores(masks)
        if self.return_single_mask:
            # A tensor: torch's newer exporter cannot multiply with a number of points that it does not know.
            masks, scores = self.select_masks(masks, scores, torch.ones_like(point_labels).sum())
        upscaled_masks = self.mask_postprocessing(masks, orig_im_size)
        if self.return_extra_metrics:
            areas = (upscaled_masks > self.model.mask_threshold).sum(dim=(-2, -1))
            return upscaled_masks, scores, self._stability_scores(upscaled_masks), areas, masks
        return upscaled_masks, scores, masks

    @staticmethod
    def resize_longest_image_size(input_image_size: Tensor, longest_side: int) -> Tensor:
        """The size (2,) int64, height and width, of an image once its longer side has that many pixels."""
        input_image_size = input_image_size.to(torch.float32)
        scale = longest_side / input_image_size.max()
        return torch.floor(scale * input_image_size + 0.5).to(torch.int64)

    def mask_postprocessing(self, masks: Tensor, orig_im_size: Tensor) -> Tensor:
        """Enlarge logits (1, M, 256, 256) of the padded model input to (1, M, H, W) of the original image."""
        masks = F.interpolate(masks, (self.img_size, self.img_size), mode="bilinear", align_corners=False)
        height, width = self.resize_longest_image_size(orig_im_size, self.img_size)
        masks = masks[..., : _as_size(height, self.img_size), : _as_size(width, self.img_size)]
        H, W = orig_im_size.to(torch.int64)
        original_size = cast(tuple[int, int], (_as_size(H), _as_size(W)))
        return F.interpolate(masks, original_size, mode="bilinear", align_corners=False)

    def select_masks(self, masks: Tensor, iou_preds: Tensor, num_points: Tensor | int) -> tuple[Tensor, Tensor]:
        """Choose the mask for unambiguous prompts where there are three points or more, else the best of the others.

        Args:
            masks: (1, 4, 256, 256) float.
            iou_preds: (1, 4) float.
            num_points: N, in which padding counts.

        Returns:
            Mask (1, 1, 256, 256) and score (1, 1).
        """
        is_single = F.one_hot(torch.zeros(1, dtype=torch.int64, device=iou_preds.device), iou_preds.shape[1])
        # An export records no branches, so the choice is a matter of scores.
        preferred = iou_preds + (num_points - _AMBIGUOUS_POINTS) * _PREFERENCE * is_single
        best = preferred.argmax(dim=1)
        rows = torch.arange(masks.shape[0], device=masks.device)
        return masks[rows, best].unsqueeze(1), iou_preds[rows, best].unsqueeze(1)

    def _embed_points(self, point_coords: Tensor, point_labels: Tensor) -> Tensor:
        """Sparse embeddings (1, N, 256) of points of any label."""
        encoder = self.model.prompt_encoder
        embeddings = encoder.pe_layer.forward_with_coords(point_coords + 0.5, encoder.input_image_size)
        label = point_labels.unsqueeze(-1)
        embeddings = torch.where(label == -1, encoder.not_a_point_embed.weight, embeddings)
        for index, embedding in enumerate(encoder.point_embeddings):
            weight = cast(nn.Embedding, embedding).weight
            embeddings = torch.where(label == index, embeddings + weight, embeddings)
        return embeddings

    def _embed_masks(self, mask_input: Tensor, has_mask_input: Tensor) -> Tensor:
        """Dense embeddings (1, 256, 64, 64) of the mask, or of none."""
        encoder = self.model.prompt_encoder
        embeddings: Tensor = has_mask_input * encoder.mask_downscaling(mask_input)
        return embeddings + (1 - has_mask_input) * encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)

    def _stability_scores(self, masks: Tensor) -> Tensor:
        """IoU of the masks above a raised and a lowered threshold, (1, M) float; NaN for a mask above neither."""
        threshold, offset = self.model.mask_threshold, self.stability_score_offset
        intersections = (masks > threshold + offset).sum(dim=(-2, -1))
        unions = (masks > threshold - offset).sum(dim=(-2, -1))
        return intersections / unions


def _as_size(size: Tensor, largest: int | None = None) -> Tensor | int:
    """``size`` in the form that a shape accepts during export, when its value is unknown.

    A trace follows the tensor itself. torch.export asks for an integer, and for its bounds.
    """
    if not torch.compiler.is_exporting():
        return size
    known = cast(int, size.item())
    check: Callable[[bool], None] = torch._check
    check(known >= 1)
    if largest is not None:
        check(known <= largest)
    return known
