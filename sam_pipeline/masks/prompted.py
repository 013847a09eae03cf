"""One mask for each prompt of an image: boxes of a detector, points of an annotator, masks of an earlier prediction.

Gives the masks of `SamPredictor` in segment_anything/predictor.py, prompt by prompt. Prompts are decoded in batches,
and of each only the mask with the highest predicted IoU is upscaled: to runs, never to an array of pixels.

N prompts, P points a prompt, M masks a prompt; H W pixels of the original frame.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sam_pipeline.masks.candidates import xyxy_to_xywh
from sam_pipeline.masks.decoder.shared_decoder import SharedDecoder
from sam_pipeline.masks.full_resolution.upscaling import Upscaling, finds_runs
from sam_pipeline.masks.geometry.transforms import ResizeLongestSide
from sam_pipeline.masks.prediction import decode_prompts
from sam_pipeline.masks.prompts import BoxXyxy, Prompt, UnusablePrompt
from sam_pipeline.masks.records import PromptedMaskRecord
from sam_pipeline.masks.runs import rle
from sam_pipeline.masks.runs.runs import Runs
from sam_pipeline.masks.transfers import to_device
from sam_pipeline.model.sam import Sam

# Image tokens of prompts with a mask differ, and take 4 MB each: the plain decoder holds several copies of them.
_MASK_PROMPTS_AT_ONCE = 8
MAX_PROMPTS_AT_ONCE = 256
"""Prompts without a mask that are decoded at once; on a CPU each holds 256 KB of logits until its mask is finished."""


@dataclass(frozen=True)
class PromptDetections:
    """The mask of each prompt before it has pixels, in the order of the prompts."""

    prompts: Sequence[Prompt]
    masks: Sequence[Tensor] | Sequence[Runs]
    """(4 * rows, 4 * columns) logits each, or on CUDA pixels."""
    iou_predictions: NDArray[np.float32]
    """(N,)"""
    stability_scores: NDArray[np.float32]
    """(N,); 0 for a mask without pixels."""
    boxes_xyxy: NDArray[np.int64]
    """(N, 4), both corners inclusive, original frame."""
    upscaling: Upscaling
    pixels_copied: torch.cuda.Event | None = None
    """Wait for it before reading pixels."""


class _Batch(NamedTuple):
    """The best masks of N prompts, as in PromptDetections; stability scores are NaN where undefined."""

    low_res_masks: Tensor
    iou_predictions: NDArray[np.float32]
    stability_scores: NDArray[np.float32]
    boxes_xyxy: NDArray[np.int64]


class PromptedMaskGenerator:
    """Finds one mask for each prompt.

    Args:
        sam: the networks, in evaluation mode, on the device to use.
        decoder: the fast decoder of the same networks.
        multimask_output: choose the best of three masks by predicted IoU, for ambiguous prompts; else there is one, for
            unambiguous prompts such as a box with points.
        stability_score_offset: shift of the mask threshold, in logits, when the stability score is computed.
    """

    def __init__(
        self, sam: Sam, decoder: SharedDecoder, multimask_output: bool = False, stability_score_offset: float = 1.0
    ) -> None:
        self._sam = sam
        self._decoder = decoder
        self._multimask_output = multimask_output
        self._stability_score_offset = stability_score_offset
        self._transform = ResizeLongestSide(sam.image_encoder.img_size)

    def decode(
        self, image_embedding: Tensor, original_size: tuple[int, int], prompts: Sequence[Prompt]
    ) -> list[PromptedMaskRecord | UnusablePrompt]:
        """`detect` and `finish` in one."""
        return self.finish(self.detect(image_embedding, original_size, prompts))

    @torch.inference_mode()
    def detect(
        self, image_embedding: Tensor, original_size: tuple[int, int], prompts: Sequence[Prompt]
    ) -> PromptDetections:
        """The half that keeps the device busy.

        Args:
            image_embedding: (1, 256, 64, 64) of the whole image, any float type, any device.
            original_size: (H, W) of the image.
            prompts: of one image, in any mixture.
        """
        image_embedding = image_embedding.to(self._sam.device)
        input_size = self._transform.get_preprocess_shape(*original_size, self._transform.target_length)
        upscaling = Upscaling(self._sam, input_size, original_size)
        shared = self._decoder.share(image_embedding)
        low_res_masks_of_all = [torch.empty(0)] * len(prompts)
        found = PromptDetections(
            prompts,
            low_res_masks_of_all,
            np.zeros(len(prompts), np.float32),
            np.zeros(len(prompts), np.float32),
            np.zeros((len(prompts), 4), np.int64),
            upscaling,
        )
        for where in _alike(prompts):
            some = [prompts[i] for i in where]
            batch = self._decode_batch(self._decoder, shared, image_embedding, some, upscaling)
            if np.isnan(batch.iou_predictions).any() and (exact := self._decoder.in_float32()) is not None:
                batch = self._decode_batch(exact, exact.share(image_embedding), image_embedding, some, upscaling)
            found.iou_predictions[where] = batch.iou_predictions
            found.stability_scores[where] = np.nan_to_num(batch.stability_scores)
            found.boxes_xyxy[where] = batch.boxes_xyxy
            for i, mask in zip(where, batch.low_res_masks, strict=True):
                low_res_masks_of_all[i] = mask
        if finds_runs(self._sam.device):
            runs, copied = upscaling.start_runs(low_res_masks_of_all)
            return replace(found, masks=runs, pixels_copied=copied)
        return found

    @torch.inference_mode()
    def finish(self, found: PromptDetections) -> list[PromptedMaskRecord | UnusablePrompt]:
        """The half that needs CPUs: pixels are computed and compressed.

        Returns:
            For each prompt, in their order, its mask, or an error where the mask has no pixel.
        """
        if found.pixels_copied is not None:
            found.pixels_copied.synchronize()
        masks = found.upscaling.runs(found.masks)
        return [
            self._record(found, i, mask)
            if mask.area()
            else UnusablePrompt("prompt", found.prompts[i].prompt_id, "its mask is empty: SAM finds no object there")
            for i, mask in enumerate(masks)
        ]

    def _decode_batch(
        self,
        decoder: SharedDecoder,
        shared: Any,
        image_embedding: Tensor,
        prompts: Sequence[Prompt],
        upscaling: Upscaling,
    ) -> _Batch:
        """The best masks of prompts that are decoded together; see `_alike`."""
        points, boxes = self._in_model_frame(prompts, upscaling.crop_size)
        if prompts[0].mask_input is None:
            decoded = decoder.decode(
                shared, points, _best_iou_filter, upscaling.num_embedding_rows, boxes, self._multimask_output
            )
            low_res_masks, iou_predictions = decoded.low_res_masks, decoded.iou_predictions[decoded.keep_mask]
        else:  # image tokens differ from prompt to prompt, so nothing is shared
            masks = torch.stack([torch.as_tensor(prompt.mask_input) for prompt in prompts])[:, None]
            logits, scores = decode_prompts(
                self._sam, image_embedding, points, boxes, masks.to(self._sam.device), self._multimask_output
            )
            keep_mask = _best_iou_filter(scores)
            low_res_masks = logits[keep_mask][:, : 4 * upscaling.num_embedding_rows]
            iou_predictions = scores[keep_mask]
        stability, boxes_xyxy = upscaling.measure(low_res_masks, self._stability_score_offset)
        return _Batch(low_res_masks, iou_predictions.cpu().numpy(), stability, boxes_xyxy)

    def _record(self, found: PromptDetections, i: int, mask: Runs) -> PromptedMaskRecord:
        prompt = found.prompts[i]
        height, width = found.upscaling.crop_size
        return PromptedMaskRecord(
            segmentation=rle.encode(mask),
            area=mask.area(),
            bbox=xyxy_to_xywh(found.boxes_xyxy[i]),
            predicted_iou=float(found.iou_predictions[i]),
            point_coords=prompt.point_coords,
            stability_score=float(found.stability_scores[i]),
            crop_box=(0, 0, width, height),
            prompt_id=prompt.prompt_id,
            prompt_box=_xywh(prompt.box_xyxy),
            point_labels=prompt.point_labels,
            category_id=prompt.category_id,
            score=prompt.score,
        )

    def _in_model_frame(
        self, prompts: Sequence[Prompt], original_size: tuple[int, int]
    ) -> tuple[tuple[Tensor, Tensor] | None, Tensor | None]:
        """Points and labels (N, P, …), and boxes (N, 4), of prompts of one batch of `_alike`."""
        points, boxes, device = None, None, self._sam.device
        if prompts[0].point_coords:
            coords = self._transform.apply_coords(np.array([prompt.point_coords for prompt in prompts]), original_size)
            labels = np.array([prompt.point_labels for prompt in prompts], np.int32)
            # float32 here, as in the official predictor.
            points = to_device(coords.astype(np.float32), device), to_device(labels, device)
        if prompts[0].box_xyxy is not None:
            moved = self._transform.apply_boxes(np.array([prompt.box_xyxy for prompt in prompts]), original_size)
            boxes = to_device(moved.astype(np.float32), device)
        return points, boxes


def _xywh(box_xyxy: BoxXyxy | None) -> tuple[float, float, float, float] | None:
    if box_xyxy is None:
        return None
    x0, y0, x1, y1 = box_xyxy
    return x0, y0, x1 - x0, y1 - y0


def _alike(prompts: Sequence[Prompt]) -> list[list[int]]:
    """Indices of prompts that can be decoded in one batch: with equally many points, all or none with a box or a mask.

    Prompts are not padded to one length: the other tokens would attend to the padding.
    """
    groups: dict[tuple[int, bool, bool], list[int]] = defaultdict(list)
    for i, prompt in enumerate(prompts):
        groups[len(prompt.point_coords), prompt.box_xyxy is None, prompt.mask_input is None].append(i)
    batches = []
    for (_, _, no_mask), where in groups.items():
        size = MAX_PROMPTS_AT_ONCE if no_mask else _MASK_PROMPTS_AT_ONCE
        batches += [where[start : start + size] for start in range(0, len(where), size)]
    return batches


def _best_iou_filter(iou_predictions: Tensor) -> Tensor:
    """Keep the mask of each prompt with the highest predicted IoU: (N, M) float → (N, M) bool, one True a row."""
    return torch.nn.functional.one_hot(iou_predictions.argmax(dim=1), iou_predictions.shape[1]).bool()
