"""The fast mask decoder on the device against the plain networks."""

from __future__ import annotations

import torch
from torch import Tensor

from sam_pipeline.config import ResolvedPrecision
from sam_pipeline.masks.decoder.plain_decoder import PlainDecoder
from sam_pipeline.masks.decoder.shared_decoder import DecodedPrompts, SharedDecoder
from tests.gpu.bench import Bench
from tests.gpu.instruments.kernels import DECODING, TOKENS, counted_launches, require
from tests.gpu.instruments.results import Figures
from tests.gpu.networks import IMG_SIZE, grid_of_points, random_embedding, random_sam

NUM_ROWS = 44
"""Of the 64 of the embedding: a 1500 x 2250 image."""


def float32_is_exact(bench: Bench) -> Figures:
    """Also where the user has allowed TF32."""
    sam = random_sam(bench.device)
    expected = _decode(bench, PlainDecoder(sam))
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    try:
        decoded = _decode(bench, SharedDecoder(sam, "fp32"))
    finally:
        torch.backends.cuda.matmul.fp32_precision = before
    masks = (decoded.low_res_masks - expected.low_res_masks).abs().max() / expected.low_res_masks.abs().max()
    ious = (decoded.iou_predictions - expected.iou_predictions).abs().max()
    off = max(masks.item(), ious.item())
    assert off < 1e-4, off
    return {"largest_difference": off}


def float16_is_close(bench: Bench) -> Figures:
    """And computed by Triton's kernels."""
    return _half_is_close(bench, "fp16")


def bfloat16_is_close(bench: Bench) -> Figures:
    """And computed by Triton's kernels."""
    return _half_is_close(bench, "bf16")


def boxes_are_close(bench: Bench) -> Figures:
    """One mask a box."""
    corners = torch.rand(bench.scale.check_points_per_side**2, 2, 2, generator=torch.Generator().manual_seed(3))
    boxes = torch.cat([corners.amin(dim=1), corners.amax(dim=1)], dim=1).to(bench.device) * IMG_SIZE
    return _prompts_are_close(bench, None, boxes)


def boxes_with_points_are_close(bench: Bench) -> Figures:
    """Eight tokens a prompt: as many as the kernels take."""
    points, labels = grid_of_points(bench.scale.check_points_per_side, bench.device)
    boxes = torch.cat([points[:, 0] - 100, points[:, 0] + 80], dim=1).float()
    return _prompts_are_close(bench, (points, labels), boxes)


def many_points_are_close(bench: Bench) -> Figures:
    """More tokens than the kernels take."""
    points, labels = grid_of_points(bench.scale.check_points_per_side, bench.device)
    several = torch.cat([points, points + 30, points - 50, points + 70], dim=1)
    return _prompts_are_close(bench, (several, labels.expand(-1, 4)), None)


def prompts_do_not_mix(bench: Bench) -> Figures:
    """The same prompt alone, among few and among many gives the same masks: splitting a prompt over programs too."""
    decoder = SharedDecoder(random_sam(bench.device), "fp16")
    points, labels = grid_of_points(max(4, bench.scale.points_per_side), bench.device)
    middle = len(points) // 2
    shared = decoder.share(random_embedding(bench.device))

    def masks(some: slice) -> Tensor:
        return decoder.decode(shared, (points[some], labels[some]), _first_and_last, 64).low_res_masks

    alone = masks(slice(middle, middle + 1))
    few = masks(slice(middle - 2, middle + 3))[4:6]
    many = masks(slice(None))[2 * middle : 2 * middle + 2]
    off = max(((some - alone).abs().max() / alone.abs().max()).item() for some in (few, many))
    assert off < 0.02, off
    return {"largest_difference": off}


def nothing_kept_is_nothing(bench: Bench) -> Figures:
    decoder = SharedDecoder(random_sam(bench.device), "fp16")
    shared = decoder.share(random_embedding(bench.device))
    decoded = decoder.decode(shared, grid_of_points(2, bench.device), lambda ious: ious > 1e9, NUM_ROWS)
    assert decoded.low_res_masks.shape == (0, 4 * NUM_ROWS, 256)
    return {}


CHECKS = (
    float32_is_exact,
    float16_is_close,
    bfloat16_is_close,
    boxes_are_close,
    boxes_with_points_are_close,
    many_points_are_close,
    prompts_do_not_mix,
    nothing_kept_is_nothing,
)


def _decode(bench: Bench, decoder: SharedDecoder | PlainDecoder) -> DecodedPrompts:
    shared = decoder.share(random_embedding(bench.device))
    points = grid_of_points(bench.scale.check_points_per_side, bench.device)
    return decoder.decode(shared, points, _first_and_last, NUM_ROWS)


def _half_is_close(bench: Bench, precision: ResolvedPrecision) -> Figures:
    sam = random_sam(bench.device)
    with counted_launches() as launches:
        decoded = _decode(bench, SharedDecoder(sam, precision))
    figures = _compare(decoded, _decode(bench, PlainDecoder(sam)))
    if bench.device == "cuda":
        require(launches, (*DECODING, *TOKENS))
    return {**figures, "launches": sum(launches.values())}


def _prompts_are_close(bench: Bench, points: tuple[Tensor, Tensor] | None, boxes: Tensor | None) -> Figures:
    sam, embedding = random_sam(bench.device), random_embedding(bench.device)
    ours, plain = (
        decoder.decode(decoder.share(embedding), points, _all, NUM_ROWS, boxes, multimask_output=False)
        for decoder in (SharedDecoder(sam, "fp16"), PlainDecoder(sam))
    )
    return _compare(ours, plain)


def _compare(decoded: DecodedPrompts, expected: DecodedPrompts) -> Figures:
    """A half type against float32."""
    ious = (decoded.iou_predictions - expected.iou_predictions).abs().max().item()
    ours, theirs = decoded.low_res_masks, expected.low_res_masks
    error = ((ours - theirs).pow(2).mean() / theirs.pow(2).mean()).sqrt().item()
    intersections = ((ours > 0) & (theirs > 0)).sum(dim=(1, 2))
    unions = ((ours > 0) | (theirs > 0)).sum(dim=(1, 2)).clamp(min=1)
    assert torch.isfinite(ours).all()
    assert error < 0.03, error
    assert ious < 0.05, ious
    return {
        "relative_rms_error": error,
        "iou_prediction_difference": ious,
        "mask_iou": (intersections / unions).mean().item(),
    }


def _first_and_last(iou_predictions: Tensor) -> Tensor:
    """Keep the first and the last mask of every prompt, whatever their scores."""
    kept = torch.ones_like(iou_predictions, dtype=torch.bool)
    kept[:, 1] = False
    return kept


def _all(iou_predictions: Tensor) -> Tensor:
    return torch.ones_like(iou_predictions, dtype=torch.bool)
