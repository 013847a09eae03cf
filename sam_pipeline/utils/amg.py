"""The functions of segment_anything/utils/amg.py, with its names, signatures and results.

For scripts written for the official package; this project's own generator works on other types (`masks/`), and lends
what it has. docs/porting.md says what differs.

Legend: N masks, H W pixels; boxes and points in pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from torch import Tensor

from sam_pipeline.masks.filters import mask_boxes, stability_scores
from sam_pipeline.masks.geometry.crops import crop_boxes_of_layers
from sam_pipeline.masks.geometry.grids import build_all_layer_point_grids, build_point_grid
from sam_pipeline.masks.runs.runs import Runs
from sam_pipeline.masks.runs.small_regions import drop_small_islands, fill_small_holes
from sam_pipeline.utils.mask_data import MaskData

__all__ = [
    "MaskData",
    "area_from_rle",
    "batch_iterator",
    "batched_mask_to_box",
    "box_xyxy_to_xywh",
    "build_all_layer_point_grids",
    "build_point_grid",
    "calculate_stability_score",
    "coco_encode_rle",
    "generate_crop_boxes",
    "is_box_near_crop_edge",
    "mask_to_rle_pytorch",
    "remove_small_regions",
    "rle_to_mask",
    "uncrop_boxes_xyxy",
    "uncrop_masks",
    "uncrop_points",
]

Box = TypeVar("Box", Tensor, NDArray[np.number], list[float])
UncompressedRle = dict[str, Any]
"""size [H, W] and counts: column-major run lengths, background first."""


def is_box_near_crop_edge(
    boxes: Tensor, crop_box: Sequence[int], orig_box: Sequence[int], atol: float = 20.0
) -> Tensor:
    """Which boxes come within `atol` of an edge of the crop that is not also an edge of the image.

    Args:
        boxes: (N, 4) xyxy, crop frame.
        crop_box: xyxy of the crop, original frame.
        orig_box: xyxy of the image.
        atol: distance that counts as near.

    Returns:
        (N,) bool.
    """
    corners = uncrop_boxes_xyxy(boxes, crop_box).float()
    crop, image = (torch.as_tensor(box, dtype=torch.float32, device=boxes.device) for box in (crop_box, orig_box))
    near_crop, near_image = (corners - crop).abs() <= atol, (corners - image).abs() <= atol
    return (near_crop & ~near_image).any(dim=1)


def box_xyxy_to_xywh(box_xyxy: Box) -> Box:
    """Corners → x, y, and the distances between them, of one box of any kind of sequence; a copy."""
    box_xywh = deepcopy(box_xyxy)
    box_xywh[2] -= box_xyxy[0]
    box_xywh[3] -= box_xyxy[1]
    return box_xywh


def batch_iterator(batch_size: int, *args: Any) -> Iterator[list[Any]]:
    """Slices of `batch_size` of each argument, all of one length; the last may be shorter.

    Raises:
        ValueError: there is no argument, or their lengths differ.
    """
    if len({len(arg) for arg in args}) != 1:
        raise ValueError(f"batch_iterator needs arguments of one length, got lengths {[len(arg) for arg in args]}")
    for start in range(0, len(args[0]), batch_size):
        yield [arg[start : start + batch_size] for arg in args]


def mask_to_rle_pytorch(tensor: Tensor) -> list[UncompressedRle]:
    """Masks, (N, H, W) bool, as uncompressed RLE."""
    return [counts_of(Runs.of_mask(mask)) for mask in (tensor != 0).cpu().numpy()]


def counts_of(runs: Runs) -> UncompressedRle:
    """Runs as uncompressed RLE."""
    height, width = runs.size
    counts = np.diff(runs.edges, prepend=0, append=height * width).tolist()
    if counts[-1] == 0:  # the last run of the mask ends with the image
        counts.pop()
    return {"size": [height, width], "counts": counts}


def rle_to_mask(rle: UncompressedRle) -> NDArray[np.bool_]:
    """The (H, W) bool mask of uncompressed RLE.

    Raises:
        ValueError: the counts do not add up to H * W; the official function leaves other pixels as they happen to be.
    """
    height, width = rle["size"]
    counts = rle["counts"]
    if isinstance(counts, str | bytes):
        raise ValueError("rle is compressed; pycocotools.mask.decode takes it")
    if sum(counts) != height * width:
        raise ValueError(f"counts must add up to {height} x {width} pixels, got {sum(counts)}")
    pixels = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return pixels.reshape(width, height).T


def area_from_rle(rle: UncompressedRle) -> int:
    """Pixels in the mask of uncompressed RLE."""
    return sum(rle["counts"][1::2])


def calculate_stability_score(masks: Tensor, mask_threshold: float, threshold_offset: float) -> Tensor:
    """IoU between masks cut off `threshold_offset` above and below `mask_threshold`.

    Args:
        masks: logits (..., H, W).
        mask_threshold: logit above which a pixel belongs to the mask.
        threshold_offset: in logits.

    Returns:
        (...) float32; NaN where no pixel is above the lower threshold.
    """
    return stability_scores(masks, mask_threshold, threshold_offset)


def generate_crop_boxes(
    im_size: Sequence[int], n_layers: int, overlap_ratio: float
) -> tuple[list[list[int]], list[int]]:
    """Crops of an image of (H, W) pixels.

    Args:
        im_size: (H, W).
        n_layers: layers of crops beside the whole image; layer i has (2**i)**2 of them.
        overlap_ratio: overlap of neighbouring crops of layer 1, as a share of the shorter side.

    Returns:
        Boxes xyxy, x1 and y1 exclusive, and the layer of each. As in the official package, crops of an image that is
        too small for them may be empty.
    """
    height, width = im_size
    boxes, layers = crop_boxes_of_layers((height, width), n_layers, overlap_ratio)
    return [list(box) for box in boxes], layers


def uncrop_boxes_xyxy(boxes: Tensor, crop_box: Sequence[int]) -> Tensor:
    """Move boxes, (N, 4) or (N, M, 4) xyxy, from the frame of a crop to that of its image."""
    x0, y0, _, _ = crop_box
    return boxes + torch.tensor([[x0, y0, x0, y0]], device=boxes.device)


def uncrop_points(points: Tensor, crop_box: Sequence[int]) -> Tensor:
    """Move points, (N, 2) or (N, M, 2), from the frame of a crop to that of its image."""
    x0, y0, _, _ = crop_box
    return points + torch.tensor([[x0, y0]], device=points.device)


def uncrop_masks(masks: Tensor, crop_box: Sequence[int], orig_h: int, orig_w: int) -> Tensor:
    """Place masks of a crop, (N, h, w), in its image: (N, orig_h, orig_w), 0 outside the crop."""
    x0, y0, x1, y1 = crop_box
    if (x0, y0, x1, y1) == (0, 0, orig_w, orig_h):
        return masks
    return F.pad(masks, (x0, orig_w - x1, y0, orig_h - y1), value=0)


def remove_small_regions(
    mask: NDArray[np.bool_ | np.integer], area_thresh: float, mode: str
) -> tuple[NDArray[np.bool_ | np.integer], bool]:
    """Fill small holes, or drop small islands; regions are 8-connected.

    Args:
        mask: (H, W) bool, or integers, in which 0 is background.
        area_thresh: regions of fewer pixels go. If all islands are small, the largest stays.
        mode: "holes" or "islands".

    Returns:
        The mask, bool if it was repaired, and whether it counts as changed.

    Raises:
        ValueError: another mode.
        TypeError: the mask is neither bool nor integers.
    """
    if mode not in ("holes", "islands"):
        raise ValueError(f"mode must be 'holes' or 'islands', got {mode!r}")
    if mask.dtype.kind not in "bui":
        raise TypeError(f"mask must be bool or integers, got {mask.dtype}; make it one, such as mask > 0")
    repair = fill_small_holes if mode == "holes" else drop_small_islands
    repaired, changed = repair(Runs.of_mask(mask != 0), area_thresh)
    return (repaired.to_mask(), True) if changed else (mask, False)


def coco_encode_rle(uncompressed_rle: UncompressedRle) -> dict[str, Any]:
    """Compress RLE as COCO does; counts are a string, so that JSON takes them."""
    compressed = coco_mask.frPyObjects(uncompressed_rle, *uncompressed_rle["size"])
    return {"size": compressed["size"], "counts": compressed["counts"].decode("ascii")}


def batched_mask_to_box(masks: Tensor) -> Tensor:
    """Boxes around masks.

    Args:
        masks: (..., H, W) bool.

    Returns:
        (..., 4) int64 xyxy, both corners inclusive; zeros for an empty mask, and float32 ones where there are no pixels
        at all, as in the official package.
    """
    if masks.numel() == 0:
        return torch.zeros(*masks.shape[:-2], 4, device=masks.device)
    return mask_boxes(masks)
