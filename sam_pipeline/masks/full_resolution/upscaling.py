"""From low-resolution logits to stability scores, boxes and pixels of masks at full resolution.

The kernels of `mask_kernels`, and on CUDA of `triton_masks`, compute it from the logits as they are; where there is no
such kernel, torch upscales the logits a chunk at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from sam_pipeline.masks.filters import mask_boxes, stability_scores
from sam_pipeline.masks.full_resolution.composed_resize import SCALE, Axis, composed_axis
from sam_pipeline.masks.full_resolution.mask_kernels import mask_edges, measure_masks
from sam_pipeline.masks.runs.runs import Runs
from sam_pipeline.model.sam import Sam

CHUNK_BYTES = 128 * 2**20
"""Full-resolution pixels held at a time, 4 bytes each: all logits of a prompt batch of a 24-megapixel image would take
18 GB."""

Result = TypeVar("Result")

_MASKS_AT_ONCE = 256
"""Whose runs are found together on a device."""

_PATCH = 16
"""Model input pixels per row of the image embedding."""


@dataclass(frozen=True)
class Upscaling:
    """How the masks of one crop are upscaled.

    Args:
        sam: its mask threshold and sizes.
        input_size: (h, w) of the crop in the model input frame, before padding.
        crop_size: (H, W) of the crop.
    """

    sam: Sam
    input_size: tuple[int, int]
    crop_size: tuple[int, int]

    @property
    def num_embedding_rows(self) -> int:
        """Rows of the image embedding whose logits are read: one below the crop too, to interpolate its last row."""
        return min(self.sam.image_encoder.img_size, -(-self.input_size[0] // _PATCH) * _PATCH + _PATCH) // _PATCH

    def measure(self, low_res_masks: Tensor, offset: float) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Stability scores and boxes.

        Args:
            low_res_masks: logits, (N, 4 * rows, 4 * columns) float32.
            offset: shift of the mask threshold for the stability score, in logits.

        Returns:
            (N,) float32, NaN where no pixel is above the lower threshold; (N, 4) int64 xyxy, inclusive, crop frame.
        """
        device, threshold = low_res_masks.device, self.sam.mask_threshold
        if device.type != "cpu" and not finds_runs(device):
            return self._measure_with_torch(low_res_masks, offset)
        rows, columns = self._axes(low_res_masks)
        if device.type == "cpu":
            parts = _in_threads(lambda part: measure_masks(part, rows, columns, threshold, offset), low_res_masks)
        else:
            from sam_pipeline.masks.full_resolution import triton_masks  # Triton comes with torch for CUDA alone

            parts = [triton_masks.measure_masks(low_res_masks, rows, columns, threshold, offset)]
        counts = np.concatenate([counts for counts, _ in parts]).astype(np.float32)
        with np.errstate(invalid="ignore"):
            return counts[:, 0] / counts[:, 1], np.concatenate([boxes for _, boxes in parts])

    def runs(self, masks: Sequence[Tensor | Runs]) -> Iterator[Runs]:
        """Masks at full resolution, one by one.

        Args:
            masks: logits as for `measure`, one tensor (4 * rows, 4 * columns) a mask; or runs, which are given back.
        """
        low_res_masks = [mask for mask in masks if isinstance(mask, Tensor)]
        if not low_res_masks:
            yield from (mask for mask in masks if isinstance(mask, Runs))
        elif finds_runs(low_res_masks[0].device):
            found, copied = self._runs_on_device(low_res_masks)
            if copied is not None:
                copied.synchronize()
            yield from found
        else:
            yield from self._runs_on_cpu(low_res_masks)

    def start_runs(self, masks: Sequence[Tensor | Runs]) -> tuple[list[Runs], torch.cuda.Event | None]:
        """`runs` without waiting for a device that finds them.

        Returns:
            The runs, and what any thread must wait for before it reads their edges; None: they are there.
        """
        low_res_masks = [mask for mask in masks if isinstance(mask, Tensor)]
        if not low_res_masks:
            return [mask for mask in masks if isinstance(mask, Runs)], None
        if finds_runs(low_res_masks[0].device):
            return self._runs_on_device(low_res_masks)
        return list(self._runs_on_cpu(low_res_masks)), None

    def binarize(self, low_res_masks: Tensor) -> Tensor:
        """Masks, (N, H, W) bool on the device of the logits, which are as for `measure`.

        A model of a script may give logits of another size, and may have its own way to upscale them.
        """
        if not self._is_as_sam(low_res_masks):
            logits = self.sam.postprocess_masks(low_res_masks[None], self.input_size, self.crop_size)[0]
            return logits > self.sam.mask_threshold
        if low_res_masks.device.type != "cpu":
            return self._upscaled(low_res_masks) > self.sam.mask_threshold
        masks = np.empty((len(low_res_masks), *self.crop_size), np.bool_)
        for mask, runs in zip(masks, self.runs(list(low_res_masks)), strict=True):
            mask[:] = runs.to_mask()
        return torch.from_numpy(masks)

    def _runs_on_cpu(self, low_res_masks: list[Tensor]) -> Iterator[Runs]:
        """The runs of logits as for `runs`, at least one, from any device."""
        rows, columns = self._axes(low_res_masks[0])
        # From another device in one copy; on a CPU they are where they are needed.
        on_cpu = low_res_masks if low_res_masks[0].device.type == "cpu" else torch.stack(low_res_masks).cpu()
        for logits in on_cpu:
            yield Runs(self.crop_size, mask_edges(logits.numpy(), rows, columns, self.sam.mask_threshold))

    def _runs_on_device(self, low_res_masks: list[Tensor]) -> tuple[list[Runs], torch.cuda.Event | None]:
        """The same by the device of the logits; see `start_runs`."""
        from sam_pipeline.masks.full_resolution import triton_masks  # Triton comes with torch for CUDA alone

        rows, columns = self._axes(low_res_masks[0])
        found = []
        for first in range(0, len(low_res_masks), _MASKS_AT_ONCE):
            some = torch.stack(low_res_masks[first : first + _MASKS_AT_ONCE])
            found += triton_masks.mask_edges(some, rows, columns, self.sam.mask_threshold)
        copied, device = None, low_res_masks[0].device
        if device.type == "cuda":
            # blocking=True lets the waiting thread sleep; spinning would occupy a CPU.
            copied = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]  # torch has no type
            copied.record(torch.cuda.current_stream(device))
        return [Runs(self.crop_size, edges) for edges in found], copied

    def _measure_with_torch(
        self, low_res_masks: Tensor, offset: float
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        threshold = self.sam.mask_threshold
        pixels = max(self.sam.image_encoder.img_size**2, self.crop_size[0] * self.crop_size[1])
        scores, boxes = [], []
        for chunk in torch.split(low_res_masks, max(1, CHUNK_BYTES // (4 * pixels))):
            mask_logits = self._upscaled(chunk)
            scores.append(stability_scores(mask_logits, threshold, offset))
            boxes.append(mask_boxes(mask_logits > threshold))
        return torch.cat(scores).cpu().numpy(), torch.cat(boxes).cpu().numpy()

    def _axes(self, low_res_masks: Tensor) -> tuple[Axis, Axis]:
        img_size = self.sam.image_encoder.img_size
        if not self._is_as_sam(low_res_masks):  # kernels would read beyond the logits
            raise ValueError(
                f"mask logits must be {img_size // SCALE} x {img_size // SCALE}, and upscaled by "
                f"Sam.postprocess_masks; this model gives {tuple(low_res_masks.shape[-2:])}, or upscales otherwise"
            )
        return (
            composed_axis(img_size // SCALE, self.input_size[0], self.crop_size[0]),
            composed_axis(low_res_masks.shape[-1], self.input_size[1], self.crop_size[1]),
        )

    def _is_as_sam(self, low_res_masks: Tensor) -> bool:
        """Whether the logits have SAM's size, all rows that are read, and are upscaled as SAM's."""
        rows, columns = low_res_masks.shape[-2:]
        upscale = getattr(self.sam.postprocess_masks, "__func__", None)
        return (
            columns == self.sam.image_encoder.img_size // SCALE
            and rows * SCALE >= self.num_embedding_rows * _PATCH
            and upscale is Sam.postprocess_masks
        )

    def _upscaled(self, low_res_masks: Tensor) -> Tensor:
        missing = low_res_masks.shape[-1] - low_res_masks.shape[-2]
        padded = F.pad(low_res_masks, (0, 0, 0, missing))
        return self.sam.postprocess_masks(padded[None], self.input_size, self.crop_size)[0]


def finds_runs(device: torch.device) -> bool:
    """Whether the device finds runs, so that few bytes leave it and no logits wait there."""
    return device.type == "cuda" and find_spec("triton") is not None


def _in_threads(kernel: Callable[[NDArray[np.float32]], Result], low_res_masks: Tensor) -> list[Result]:
    parts = [part for part in np.array_split(low_res_masks.contiguous().numpy(), torch.get_num_threads()) if len(part)]
    if len(parts) < 2:
        return [kernel(part) for part in parts or [low_res_masks.numpy()]]
    with ThreadPoolExecutor(len(parts)) as pool:
        return list(pool.map(kernel, parts))
