"""Masks of everything in an image, from a grid of point prompts.

Reproduces segment_anything/automatic_mask_generator.py: the same masks, in the same order. Two steps come at another
point, with the same results: masks that fail `pred_iou_thresh` are dropped before they are upscaled, and pixels are
computed only of masks that survive the NMS of their crop.

P prompts, M masks per prompt, N masks; H W pixels of the original frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sam_pipeline.config import MaskConfig, ResolvedPrecision
from sam_pipeline.masks import prediction
from sam_pipeline.masks.candidates import Candidates, to_records
from sam_pipeline.masks.collecting import MAX_HELD_BYTES, collect, held_bytes
from sam_pipeline.masks.decoder.shared_decoder import PromptDecoder, SharedDecoder
from sam_pipeline.masks.filters import near_crop_edge
from sam_pipeline.masks.full_resolution.upscaling import Upscaling, finds_runs
from sam_pipeline.masks.geometry.crops import Box, generate_crop_boxes, prepare_crops
from sam_pipeline.masks.geometry.grids import build_all_layer_point_grids
from sam_pipeline.masks.geometry.transforms import ResizeLongestSide
from sam_pipeline.masks.nms import nms
from sam_pipeline.masks.prompts import points_in_regions
from sam_pipeline.masks.records import MaskRecord
from sam_pipeline.masks.runs import region_kernels
from sam_pipeline.masks.runs.runs import Runs
from sam_pipeline.masks.runs.small_regions import drop_small_islands, fill_small_holes
from sam_pipeline.masks.transfers import start_to_host, to_device
from sam_pipeline.model.sam import Sam

MAX_POINTS_AT_ONCE = 1024
"""Point prompts decoded at once; each may have three masks of 256 KB."""


@dataclass(frozen=True)
class CropDetections:
    """The masks of one crop that the filters keep."""

    found: Candidates[Tensor] | Candidates[Runs]
    """Crop frame. Low-resolution masks; or on CUDA, and where logits take too much memory, runs of NMS survivors."""
    upscaling: Upscaling
    crop_box: Box
    original_size: tuple[int, int]
    pixels_copied: torch.cuda.Event | None = None
    """Wait for it before reading pixels."""

    def without_duplicates(self, box_nms_thresh: float) -> CropDetections:
        """Those that survive NMS, best first."""
        keep = nms(self.found.boxes_xyxy, self.found.iou_predictions, box_nms_thresh)
        return replace(self, found=self.found.take(keep))

    def with_pixels(self) -> CropDetections:
        """The same with runs in place of the logits, whose memory is freed."""
        runs, copied = self.upscaling.start_runs(self.found.masks)
        return replace(self, found=self.found.with_masks(runs), pixels_copied=copied)

    def to_image(self) -> Candidates[Runs]:
        """Their pixels, original frame."""
        if self.pixels_copied is not None:
            self.pixels_copied.synchronize()
        return self.found.uncrop(self.upscaling.runs(self.found.masks), self.crop_box, self.original_size)


class MaskGenerator:
    """Finds the masks of images with one set of networks and one set of settings.

    `prediction.encode` and `decode` can run in different places: `decode` needs the embeddings and the image's size.
    Nothing is kept from one image to the next.

    Args:
        sam: the networks, in evaluation mode, on the device to use.
        config: settings of the mask generator.
        precision: arithmetic of the image encoder and, on a GPU, of the image tokens in the mask decoder; the rest is
            always float32.
        decoder: of the same networks, when there is one already.
        point_grids: as the official generator's: for the image and for each crop layer (P, 2) shares of width and
            height. None: those of points_per_side.

    Raises:
        ValueError: there is not one grid for the image and one for each crop layer.
    """

    def __init__(
        self,
        sam: Sam,
        config: MaskConfig,
        precision: ResolvedPrecision = "fp32",
        decoder: PromptDecoder | None = None,
        point_grids: Sequence[NDArray[np.float64]] | None = None,
    ) -> None:
        self.sam = sam
        self.config = config
        self.precision = precision
        self.decoder: PromptDecoder = decoder or SharedDecoder(sam, precision)
        self.transform = ResizeLongestSide(sam.image_encoder.img_size)
        if point_grids is None:
            point_grids = build_all_layer_point_grids(
                config.points_per_side, config.crop_n_layers, config.crop_n_points_downscale_factor
            )
        self.point_grids = point_grids
        if len(self.point_grids) != config.crop_n_layers + 1:
            raise ValueError(
                f"crop_n_layers={config.crop_n_layers} needs {config.crop_n_layers + 1} point grids, "
                f"got {len(self.point_grids)}"
            )
        # A GPU is fed best with many prompts at once. Whoever finds that they do not fit into its memory lowers it.
        on_cpu = sam.device.type == "cpu"
        self.points_at_once = min(config.points_per_batch, MAX_POINTS_AT_ONCE) if on_cpu else MAX_POINTS_AT_ONCE

    @torch.inference_mode()
    def generate(self, image: NDArray[np.uint8]) -> list[MaskRecord]:
        """Find the masks of one image: `prepare_crops`, `prediction.encode` and `decode` in one.

        Args:
            image: (H, W, 3) uint8 RGB.

        Returns:
            The masks, in the order of the official generator; none is an empty list.

        Raises:
            ValueError: the image is not (H, W, 3) uint8, or is empty.
        """
        crops = prepare_crops(image, self.config, self.sam.image_encoder.img_size)
        # One crop at a time: four layers make 341, more than an encoder takes in one batch.
        image_embeddings = torch.cat([prediction.encode(self.sam, [crop], self.precision) for crop in crops])
        return self.decode(image_embeddings, image.shape[:2])

    def decode(self, image_embeddings: Tensor, original_size: tuple[int, int]) -> list[MaskRecord]:
        """Find the masks of one image from the embeddings of its crops: `detect` and `finish` in one.

        Args:
            image_embeddings: (crops, 256, 64, 64), any float type, any device, in the order of `prepare_crops`.
            original_size: (H, W) of the image.

        Returns:
            The masks, in the order of the official generator; none is an empty list.

        Raises:
            ValueError: the number of embeddings is not the number of crops of such an image.
        """
        return self.finish(self.detect(image_embeddings, original_size))

    @torch.inference_mode()
    def detect(
        self,
        image_embeddings: Tensor,
        original_size: tuple[int, int],
        regions: Sequence[NDArray[np.float64]] | None = None,
    ) -> list[CropDetections]:
        """The half of `decode` that keeps the device busy: masks that the filters keep, crop by crop.

        Arguments and errors are those of `decode`, but for regions: polygons, (corners, 2) x and y in pixels of the
        original frame, to which the points of the grid are limited.
        """
        crop_boxes, layers = generate_crop_boxes(
            original_size, self.config.crop_n_layers, self.config.crop_overlap_ratio
        )
        if len(image_embeddings) != len(crop_boxes):
            raise ValueError(
                f"an image of size {original_size} with crop_n_layers={self.config.crop_n_layers} has "
                f"{len(crop_boxes)} crops, got {len(image_embeddings)} embeddings; encode what prepare_crops returns "
                "for the same config"
            )
        image_embeddings = image_embeddings.to(self.sam.device)
        detections, num_bytes = [], 0
        for i, (crop_box, layer) in enumerate(zip(crop_boxes, layers, strict=True)):
            crop = self._detect_in_crop(
                image_embeddings[i : i + 1], crop_box, self.point_grids[layer], original_size, regions
            )
            num_bytes += held_bytes(crop.found)
            if num_bytes > MAX_HELD_BYTES or finds_runs(self.sam.device):  # bytes of all crops together
                num_bytes -= held_bytes(crop.found)
                crop = crop.without_duplicates(self.config.box_nms_thresh).with_pixels()
            detections.append(crop)
        return detections

    @torch.inference_mode()
    def finish(self, detections: Sequence[CropDetections]) -> list[MaskRecord]:
        """The half of `decode` that needs CPUs: duplicates go, pixels of the others are computed and compressed."""
        config = self.config
        found = Candidates.concatenate(crop.without_duplicates(config.box_nms_thresh).to_image() for crop in detections)
        if len(detections) > 1:
            found = found.take(nms(found.boxes_xyxy, _inverse_areas(found.crop_boxes_xyxy), config.crop_nms_thresh))
        if config.min_mask_region_area > 0:
            nms_thresh = max(config.box_nms_thresh, config.crop_nms_thresh)
            found = remove_small_regions(found, config.min_mask_region_area, nms_thresh)
        return to_records(found)

    def _detect_in_crop(
        self,
        image_embedding: Tensor,
        crop_box: Box,
        point_grid: NDArray[np.float64],
        original_size: tuple[int, int],
        regions: Sequence[NDArray[np.float64]] | None,
    ) -> CropDetections:
        """Masks of one crop; image_embedding is (1, 256, 64, 64)."""
        x0, y0, x1, y1 = crop_box
        crop_size = (y1 - y0, x1 - x0)
        points = point_grid * np.array([x1 - x0, y1 - y0])  # (P, 2), crop frame
        if regions is not None:
            points = points[points_in_regions(points + np.array([x0, y0]), regions)]
        upscaling = Upscaling(
            self.sam, self.transform.get_preprocess_shape(*crop_size, self.transform.target_length), crop_size
        )
        shared = self.decoder.share(image_embedding)
        batch_size = self.points_at_once

        def decode(number: int) -> Candidates[Tensor]:
            some = points[number * batch_size : (number + 1) * batch_size]
            found, are_numbers = self._decode_batch(self.decoder, shared, some, upscaling, crop_box, original_size)
            if not are_numbers and (exact := self.decoder.in_float32()) is not None:
                again = exact.share(image_embedding)
                found, _ = self._decode_batch(exact, again, some, upscaling, crop_box, original_size)
            return found

        num_batches = -(-len(points) // batch_size)
        found = collect(decode, num_batches, upscaling.runs, self.config.box_nms_thresh, MAX_HELD_BYTES)
        return CropDetections(found, upscaling, crop_box, original_size)

    def _decode_batch(
        self,
        decoder: PromptDecoder,
        shared: Any,
        points: NDArray[np.float64],
        upscaling: Upscaling,
        crop_box: Box,
        original_size: tuple[int, int],
    ) -> tuple[Candidates[Tensor], bool]:
        """Masks of one batch of points, (P, 2), that the filters keep; all in the crop frame.

        Returns:
            The masks, and whether the scores of all are numbers, also of those that are not kept.
        """
        # float64, as in the official generator, until the prompt encoder has divided by the input size.
        in_points = to_device(self.transform.apply_coords(points, upscaling.crop_size), self.sam.device)
        in_labels = torch.ones(len(in_points), dtype=torch.int, device=in_points.device)
        decoded = decoder.decode(
            shared, (in_points[:, None], in_labels[:, None]), self._pred_iou_filter, upscaling.num_embedding_rows
        )
        scores = start_to_host(decoded.keep_mask, decoded.iou_predictions)  # copied before the kernels of measure run
        stability, boxes = upscaling.measure(decoded.low_res_masks, self.config.stability_score_offset)
        keep = ~near_crop_edge(torch.from_numpy(boxes), crop_box, original_size).numpy()
        if self.config.stability_score_thresh > 0:
            keep &= stability >= self.config.stability_score_thresh
        where = keep.nonzero()[0]
        keep_mask, iou_predictions = scores()
        prompts, slots = (indices[where] for indices in keep_mask.nonzero())
        found = Candidates(
            masks=list(decoded.low_res_masks[to_device(where, self.sam.device)]),
            boxes_xyxy=boxes[where],
            iou_predictions=iou_predictions[prompts, slots],
            stability_scores=stability[where],
            point_coords=points[prompts],
            crop_boxes_xyxy=np.tile(np.array(crop_box), (len(where), 1)),
        )
        return found, not bool(np.isnan(iou_predictions).any())

    def _pred_iou_filter(self, iou_predictions: Tensor) -> Tensor:
        """Keep the masks above `pred_iou_thresh`: (P, M) float → (P, M) bool."""
        if self.config.pred_iou_thresh > 0:
            return iou_predictions > self.config.pred_iou_thresh
        return ~iou_predictions.isnan()  # NaN is above no threshold


def remove_small_regions(found: Candidates[Runs], min_area: int, nms_thresh: float) -> Candidates[Runs]:
    """Fill small holes, drop small islands, then drop duplicates that this made.

    Masks that needed no repair come first, and win over repaired ones.

    Args:
        found: masks, original frame.
        min_area: holes and islands of fewer pixels go.
        nms_thresh: box IoU above which a mask is a duplicate.
    """
    repaired, boxes, untouched = [], [], []
    for runs in found.masks:
        mask, filled = fill_small_holes(runs, min_area)
        mask, dropped = drop_small_islands(mask, min_area)
        repaired.append(mask)
        boxes.append(region_kernels.box(mask.edges, mask.size[0]))
        untouched.append(not (filled or dropped))
    boxes_xyxy = np.array(boxes, dtype=np.int64).reshape(-1, 4)
    keep = nms(boxes_xyxy, np.array(untouched, dtype=np.float32), nms_thresh)
    # An empty mask's box is zeros here but may be the corner of its crop in `found`, which is what comes out.
    boxes_xyxy = np.where(np.array(untouched, dtype=bool)[:, None], found.boxes_xyxy, boxes_xyxy)
    return replace(found, masks=repaired, boxes_xyxy=boxes_xyxy).take(keep)


def _inverse_areas(boxes_xyxy: NDArray[np.int64]) -> NDArray[np.float32]:
    """Scores that prefer masks from smaller crops."""
    x0, y0, x1, y1 = boxes_xyxy.T
    inverse_areas: NDArray[np.float32] = np.float32(1) / ((x1 - x0) * (y1 - y0)).astype(np.float32)
    return inverse_areas
