"""The mask decoder as it is, for networks that the fast decoder does not know: subclasses, adapters, hooks."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from sam_pipeline.masks.decoder.shared_decoder import DecodedPrompts, IouFilter
from sam_pipeline.masks.prediction import decode_prompts
from sam_pipeline.model.sam import Sam

_PROMPTS_AT_ONCE = 64
"""Each has image tokens of its own, some tens of MB."""


class PlainDecoder:
    """Calls the prompt encoder and the mask decoder of a model; `share` and `decode` are those of `SharedDecoder`."""

    def __init__(self, sam: Sam) -> None:
        self._sam = sam

    def share(self, image_embedding: Tensor) -> Tensor:
        """The embedding itself, (1, C, h, w) of any float type."""
        return image_embedding

    def decode(
        self,
        shared: Tensor,
        points: tuple[Tensor, Tensor] | None,
        iou_filter: IouFilter,
        num_rows: int,
        boxes: Tensor | None = None,
        multimask_output: bool = True,
    ) -> DecodedPrompts:
        """Decode prompts of an image; see `SharedDecoder.decode`."""
        parts = [
            decode_prompts(self._sam, shared, some_points, some_boxes, multimask_output=multimask_output)
            for some_points, some_boxes in _in_parts(points, boxes)
        ]
        low_res_masks, iou_predictions = (torch.cat(each) for each in zip(*parts, strict=True))
        keep_mask = iou_filter(iou_predictions)
        rows = low_res_masks.shape[2] * num_rows // shared.shape[2]
        return DecodedPrompts(iou_predictions, keep_mask, low_res_masks[keep_mask][:, :rows])

    def in_float32(self) -> None:
        """None: it computes in float32."""


def _in_parts(
    points: tuple[Tensor, Tensor] | None, boxes: Tensor | None
) -> Iterator[tuple[tuple[Tensor, Tensor] | None, Tensor | None]]:
    """Points and boxes of _PROMPTS_AT_ONCE prompts at a time; at least one part, which may have none."""
    num_prompts = max(0 if points is None else len(points[0]), 0 if boxes is None else len(boxes))
    for first in range(0, max(1, num_prompts), _PROMPTS_AT_ONCE):
        some = slice(first, first + _PROMPTS_AT_ONCE)
        yield (
            None if points is None else (points[0][some], points[1][some]),
            None if boxes is None else boxes[some],
        )
