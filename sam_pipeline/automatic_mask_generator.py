"""`SamAutomaticMaskGenerator` with the official signature and dicts, over this project's generator.

The port of segment_anything/automatic_mask_generator.py; docs/porting.md says what differs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sam_pipeline.config import MaskConfig
from sam_pipeline.masks.generator import MaskGenerator
from sam_pipeline.masks.geometry.grids import build_all_layer_point_grids
from sam_pipeline.masks.geometry.resize import check_image
from sam_pipeline.masks.nms import nms
from sam_pipeline.masks.predictor import SamPredictor
from sam_pipeline.masks.records import MaskRecord
from sam_pipeline.masks.runs.runs import Runs
from sam_pipeline.model.sam import Sam
from sam_pipeline.utils.amg import (
    MaskData,
    batched_mask_to_box,
    counts_of,
    mask_to_rle_pytorch,
    remove_small_regions,
    rle_to_mask,
)

OUTPUT_MODES = ("binary_mask", "uncompressed_rle", "coco_rle")

_OFFICIAL_STEPS = ("_generate_masks", "_process_crop", "_process_batch", "postprocess_small_regions")


class SamAutomaticMaskGenerator:
    """Finds the masks of everything in an image, from a grid of point prompts.

    Settings are attributes, and may be changed between images.

    Args:
        model: the networks, in evaluation mode, on the device to use.
        points_per_side: points along one side of the grid; None where point_grids are given.
        points_per_batch: prompts decoded at once on a CPU; a GPU takes up to 1,024, whatever this says. No mask
            changes.
        pred_iou_thresh: keep masks whose predicted IoU is above this; 0 keeps all.
        stability_score_thresh: keep masks whose stability score is at least this; 0 keeps all.
        stability_score_offset: shift of the mask threshold, in logits, when the stability score is computed.
        box_nms_thresh: box IoU above which non-maximum suppression drops the lower-scoring mask of a crop.
        crop_n_layers: layers of image crops to run in addition to the whole image; layer i has (2**i)**2 crops.
        crop_nms_thresh: box IoU above which non-maximum suppression between crops drops the mask of the larger crop.
        crop_overlap_ratio: overlap of the crops of the first layer, as a share of the image's shorter side.
        crop_n_points_downscale_factor: points_per_side is divided by this**i in crop layer i.
        point_grids: for the image and for each crop layer (P, 2) points as shares of width and height.
        min_mask_region_area: remove holes and islands smaller than this many pixels; 0 leaves masks as they are.
        output_mode: what a segmentation is: "binary_mask", an (H, W) bool array; "uncompressed_rle", or "coco_rle".

    Raises:
        ValueError: not exactly one of points_per_side and point_grids is given, there are too few grids, or the
            output mode is none of the three.
        ConfigError: a setting is out of range.
    """

    def __init__(
        self,
        model: Sam,
        points_per_side: int | None = 32,
        points_per_batch: int = 64,
        pred_iou_thresh: float = 0.88,
        stability_score_thresh: float = 0.95,
        stability_score_offset: float = 1.0,
        box_nms_thresh: float = 0.7,
        crop_n_layers: int = 0,
        crop_nms_thresh: float = 0.7,
        crop_overlap_ratio: float = 512 / 1500,
        crop_n_points_downscale_factor: int = 1,
        point_grids: Sequence[NDArray[np.float64]] | None = None,
        min_mask_region_area: float = 0,
        output_mode: str = "binary_mask",
    ) -> None:
        self.predictor = SamPredictor(model)
        self.points_per_batch = points_per_batch
        self.pred_iou_thresh = pred_iou_thresh
        self.stability_score_thresh = stability_score_thresh
        self.stability_score_offset = stability_score_offset
        self.box_nms_thresh = box_nms_thresh
        self.crop_n_layers = crop_n_layers
        self.crop_nms_thresh = crop_nms_thresh
        self.crop_overlap_ratio = crop_overlap_ratio
        self.crop_n_points_downscale_factor = crop_n_points_downscale_factor
        self.min_mask_region_area = min_mask_region_area
        self.output_mode = output_mode
        self._check_output_mode()
        config = self._config(points_per_side)
        if points_per_side is not None and point_grids is None:
            self.point_grids: Sequence[NDArray[np.float64]] = build_all_layer_point_grids(
                config.points_per_side, config.crop_n_layers, config.crop_n_points_downscale_factor
            )
        elif points_per_side is None and point_grids is not None:
            self.point_grids = point_grids
            self._grids()
        else:
            raise ValueError("give one of points_per_side and point_grids, and None for the other")

    def __init_subclass__(cls) -> None:
        """Refuse subclasses that override a step of the official generator: `generate` calls none of them.

        Raises:
            TypeError: the subclass, or one of its bases, overrides a step.
        """
        super().__init_subclass__()
        for name in _OFFICIAL_STEPS:
            if getattr(cls, name, None) is not getattr(SamAutomaticMaskGenerator, name, None):
                raise TypeError(f"{cls.__name__}.{name} would never be called here: see docs/porting.md")

    def generate(self, image: NDArray[np.uint8]) -> list[dict[str, Any]]:
        """Find the masks of an image.

        Args:
            image: (H, W, 3) uint8 RGB.

        Returns:
            For each mask: segmentation (see output_mode), area in pixels, bbox (x, y, width, height; the last two are
            differences of pixel coordinates), predicted_iou, point_coords [[x, y]] of the prompt, stability_score,
            crop_box (x, y, width, height). In the order of the official generator.

        Raises:
            ValueError: the image is not (H, W, 3) uint8.
            ConfigError: a setting was changed to a value that is out of range.
        """
        check_image(image)
        self._check_output_mode()
        self.predictor.current_decoder.compare_weights(self.predictor.model)
        generator = MaskGenerator(
            self.predictor.model, self._config(None), decoder=self.predictor.decoder, point_grids=self._grids()
        )
        return [self._annotation(record) for record in generator.generate(image)]

    @staticmethod
    def postprocess_small_regions(mask_data: MaskData, min_area: int, nms_thresh: float) -> MaskData:
        """Fill small holes and drop small islands, then drop duplicates that this made; masks without repair win.

        Args:
            mask_data: with "rles" (uncompressed) and "boxes" (N, 4); it is changed in place.
            min_area: holes and islands of fewer pixels go.
            nms_thresh: box IoU above which a mask is a duplicate.

        Returns:
            mask_data.
        """
        if len(mask_data["rles"]) == 0:
            return mask_data
        masks, untouched = [], []
        for rle in mask_data["rles"]:
            filled, has_holes = remove_small_regions(rle_to_mask(rle), min_area, mode="holes")
            mask, has_islands = remove_small_regions(filled, min_area, mode="islands")
            masks.append(torch.as_tensor(mask))
            untouched.append(not (has_holes or has_islands))
        boxes = batched_mask_to_box(torch.stack(masks))
        keep = nms(boxes.numpy(), np.array(untouched, np.float32), nms_thresh)
        for i in keep:
            if not untouched[i]:
                mask_data["rles"][i] = mask_to_rle_pytorch(masks[i][None])[0]
                mask_data["boxes"][i] = boxes[i]
        mask_data.filter(torch.from_numpy(keep))
        return mask_data

    def _check_output_mode(self) -> None:
        if self.output_mode not in OUTPUT_MODES:
            raise ValueError(f"output_mode must be one of {', '.join(OUTPUT_MODES)}, got {self.output_mode!r}")

    def _grids(self) -> Sequence[NDArray[np.float64]]:
        """The grids that are used: the official generator takes more than there are layers."""
        needed = self.crop_n_layers + 1
        if len(self.point_grids) < needed:
            raise ValueError(
                f"crop_n_layers={self.crop_n_layers} needs {needed} point grids, got {len(self.point_grids)}"
            )
        return self.point_grids[:needed]

    def _config(self, points_per_side: int | None) -> MaskConfig:
        """The settings; where grids are given, those that make grids are left at their defaults."""
        grid = {}
        if points_per_side is not None:
            grid = {
                "points_per_side": points_per_side,
                "crop_n_points_downscale_factor": self.crop_n_points_downscale_factor,
            }
        return MaskConfig(
            points_per_batch=self.points_per_batch,
            pred_iou_thresh=self.pred_iou_thresh,
            stability_score_thresh=self.stability_score_thresh,
            stability_score_offset=self.stability_score_offset,
            box_nms_thresh=self.box_nms_thresh,
            crop_n_layers=self.crop_n_layers,
            crop_nms_thresh=self.crop_nms_thresh,
            crop_overlap_ratio=self.crop_overlap_ratio,
            # Areas are whole numbers: fewer than 99.5 pixels are fewer than 100.
            min_mask_region_area=math.ceil(self.min_mask_region_area),
            **grid,
        )

    def _annotation(self, record: MaskRecord) -> dict[str, Any]:
        annotation = record.to_dict()
        if self.output_mode != "coco_rle":
            mask = record.binary_mask()
            annotation["segmentation"] = mask if self.output_mode == "binary_mask" else counts_of(Runs.of_mask(mask))
        return annotation
