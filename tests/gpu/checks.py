"""The CUDA path against the plain networks and torch's two resizes, on the device. Each check returns its figures."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sam_pipeline.masks import triton_masks
from sam_pipeline.masks.absorbing_image_side import AbsorbingImageSide
from sam_pipeline.masks.composed_resize import composed_axis
from sam_pipeline.masks.filters import mask_boxes
from sam_pipeline.masks.resize import preprocess_shape
from sam_pipeline.masks.shared_decoder import DecodedPrompts, PlainDecoder, SharedDecoder
from sam_pipeline.masks.triton_image_side import TritonImageSide
from tests.gpu.networks import IMG_SIZE, grid_of_points, random_embedding, random_sam


def decode(decoder: SharedDecoder | PlainDecoder, points_per_side: int = 8, num_rows: int = 44) -> DecodedPrompts:
    with torch.inference_mode():
        shared = decoder.share(random_embedding("cuda"))
        return decoder.decode(shared, grid_of_points(points_per_side, "cuda"), _first_and_last, num_rows)


def float32_is_exact() -> str:
    """The fast decoder in float32 against the plain networks, also where the user has allowed TF32."""
    sam = random_sam("cuda")
    expected = decode(PlainDecoder(sam))
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    try:
        decoded = decode(SharedDecoder(sam, "fp32"))
    finally:
        torch.backends.cuda.matmul.fp32_precision = before
    off = _largest_difference(decoded, expected)
    assert off < 1e-4, off
    return f"largest difference {off:.1e} of the largest logit"


def bfloat16_is_close() -> str:
    """The kernels in bfloat16 against the plain networks in float32."""
    sam = random_sam("cuda")
    expected = decode(PlainDecoder(sam))
    decoder = SharedDecoder(sam, "bf16")
    decoded = decode(decoder)
    side = decoder._image_sides[0]
    kernels = isinstance(side, AbsorbingImageSide) and isinstance(side.passes, TritonImageSide)
    ious = (decoded.iou_predictions - expected.iou_predictions).abs().max().item()
    ours, theirs = decoded.low_res_masks, expected.low_res_masks
    error = ((ours - theirs).pow(2).mean() / theirs.pow(2).mean()).sqrt().item()
    intersections = ((ours > 0) & (theirs > 0)).sum(dim=(1, 2))
    overlap = (intersections / ((ours > 0) | (theirs > 0)).sum(dim=(1, 2))).mean().item()
    assert torch.isfinite(ours).all()
    assert error < 0.03, error
    assert ious < 0.05, ious
    return f"kernels {kernels}, root mean square error {error:.1e}, IoU predictions {ious:.1e}, mask IoU {overlap:.4f}"


def prompts_do_not_mix() -> str:
    """The same prompt alone, among few and among 1024 gives the same masks: splitting a prompt over programs too."""
    decoder = SharedDecoder(random_sam("cuda"), "bf16")
    points, labels = grid_of_points(32, "cuda")
    with torch.inference_mode():
        shared = decoder.share(random_embedding("cuda"))
        alone = decoder.decode(shared, (points[500:501], labels[:1]), _first_and_last, 64).low_res_masks
        few = decoder.decode(shared, (points[498:503], labels[:5]), _first_and_last, 64).low_res_masks[4:6]
        many = decoder.decode(shared, (points, labels), _first_and_last, 64).low_res_masks[1000:1002]
    off = max(((masks - alone).abs().max() / alone.abs().max()).item() for masks in (few, many))
    assert off < 0.02, off
    return f"largest difference {off:.1e}"


def nothing_kept_is_nothing() -> str:
    decoder = SharedDecoder(random_sam("cuda"), "bf16")
    with torch.inference_mode():
        shared = decoder.share(random_embedding("cuda"))
        decoded = decoder.decode(shared, grid_of_points(2, "cuda"), lambda ious: ious > 1e9, 44)
    assert decoded.low_res_masks.shape == (0, 176, 256)
    return "ok"


def masks_are_measured_as_by_two_resizes() -> str:
    """Counts and boxes by the kernel against those of full-resolution logits; pixels near a threshold may differ."""
    worst = 0.0
    for height, width in ((1500, 2250), (1333, 800), (300, 200), (1024, 1024)):
        input_size = preprocess_shape(height, width, IMG_SIZE)
        num_rows = min(256, -(-input_size[0] // 16) * 4 + 4)
        coarse = torch.randn(16, 1, 12, 12, generator=torch.Generator().manual_seed(2)).cuda() * 8
        low_res_masks = F.interpolate(coarse, (256, 256), mode="bicubic")[:, 0]
        rows, columns = composed_axis(256, input_size[0], height), composed_axis(256, input_size[1], width)
        counts, boxes = triton_masks.measure_masks(low_res_masks[:, :num_rows].contiguous(), rows, columns, 0.0, 1.0)
        large = F.interpolate(low_res_masks[None], (IMG_SIZE, IMG_SIZE), mode="bilinear")
        large = F.interpolate(large[..., : input_size[0], : input_size[1]], (height, width), mode="bilinear")[0]
        expected = torch.stack([(large > 1).sum(dim=(1, 2)), (large > -1).sum(dim=(1, 2))], dim=1).cpu().numpy()
        worst = max(worst, float(np.abs(counts - expected).max()) / (height * width))
        off = np.abs(boxes - mask_boxes(large > 0).cpu().numpy()).max()
        assert off <= 1, (height, width, off)
    assert worst < 1e-5, worst
    return f"counts differ by {worst:.1e} of the pixels at most"


def odd_logits_are_no_pixels() -> str:
    low_res_masks = torch.full((3, 256, 256), 5.0, device="cuda")
    low_res_masks[0, 10, 10], low_res_masks[1, 10, 10], low_res_masks[2] = torch.nan, torch.inf, -torch.inf
    axis = composed_axis(256, 1024, 700)
    counts, boxes = triton_masks.measure_masks(low_res_masks, axis, axis, 0.0, 1.0)
    assert boxes.tolist() == [[0, 0, 699, 699]] * 2 + [[0, 0, 0, 0]], boxes
    assert (counts[:2, 0] == counts[:2, 1]).all(), counts
    assert (counts[:2, 0] > 489000).all(), counts
    assert (counts[:2, 0] < 490000).all(), counts
    assert not counts[2].any(), counts
    return "ok"


CHECKS = (
    float32_is_exact,
    bfloat16_is_close,
    prompts_do_not_mix,
    nothing_kept_is_nothing,
    masks_are_measured_as_by_two_resizes,
    odd_logits_are_no_pixels,
)


def _first_and_last(iou_predictions: Tensor) -> Tensor:
    """Keep the first and the last mask of every prompt, whatever their scores."""
    kept = torch.ones_like(iou_predictions, dtype=torch.bool)
    kept[:, 1] = False
    return kept


def _largest_difference(decoded: DecodedPrompts, expected: DecodedPrompts) -> float:
    masks = (decoded.low_res_masks - expected.low_res_masks).abs().max() / expected.low_res_masks.abs().max()
    ious = (decoded.iou_predictions - expected.iou_predictions).abs().max()
    return max(masks.item(), ious.item())
