"""Measures and pixels of masks on the device against full-resolution logits and against the CPU."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sam_pipeline.masks.filters import mask_boxes, stability_scores
from sam_pipeline.masks.full_resolution.upscaling import Upscaling
from sam_pipeline.masks.geometry.resize import preprocess_shape
from tests.gpu.bench import Bench
from tests.gpu.instruments.kernels import EDGES, MEASURING, counted_launches, require
from tests.gpu.instruments.results import Figures
from tests.gpu.networks import IMG_SIZE, random_sam

SIZES_HW = ((1500, 2250), (2250, 1500), (1333, 800), (301, 199), (1024, 1024), (40, 1900), (5, 3))
"""Landscape, portrait, odd and extreme."""


def measures_are_those_of_two_resizes(bench: Bench) -> Figures:
    """Scores and boxes; pixels near a threshold may differ by rounding."""
    worst_score, worst_box = 0.0, 0
    with counted_launches() as launches:
        for upscaling, logits in _masks(bench):
            scores, boxes = upscaling.measure(logits, offset=1.0)
            large = _two_resizes(upscaling, logits)
            expected_scores = stability_scores(large, 0.0, 1.0).cpu().numpy()
            expected_boxes = mask_boxes(large > 0).cpu().numpy()
            assert (np.isnan(scores) == np.isnan(expected_scores)).all(), (upscaling.crop_size, scores, expected_scores)
            worst_score = max(worst_score, float(np.nan_to_num(np.abs(scores - expected_scores)).max()))
            worst_box = max(worst_box, int(np.abs(boxes - expected_boxes).max()))
    if bench.device == "cuda":
        require(launches, MEASURING)
    assert worst_box <= 1, worst_box
    assert worst_score < 1e-3, worst_score
    return {"score_difference": worst_score, "box_difference_px": worst_box}


def pixels_are_those_of_the_cpu(bench: Bench) -> Figures:
    """What `finish` computes: the same pixels from logits on the device as on the CPU, and as by two resizes."""
    differ, pixels = 0, 0
    for upscaling, logits in _masks(bench):
        with counted_launches() as launches:
            on_device = [runs.to_mask() for runs in upscaling.runs(list(logits))]
        if bench.device == "cuda":
            require(launches, EDGES)
        on_cpu = [runs.to_mask() for runs in upscaling.runs(list(logits.cpu()))]
        assert all((ours == theirs).all() for ours, theirs in zip(on_device, on_cpu, strict=True)), upscaling.crop_size
        expected = (_two_resizes(upscaling, logits) > 0).cpu().numpy()
        differ += sum(int((ours != theirs).sum()) for ours, theirs in zip(on_device, expected, strict=True))
        pixels += expected.size
    assert differ / pixels < 1e-5, differ / pixels
    return {"share_of_pixels_that_differ": differ / pixels}


def odd_logits_are_no_pixels(bench: Bench) -> Figures:
    """No numbers and infinities touch only their own cells."""
    logits = torch.full((3, 256, 256), 5.0, device=bench.device)
    logits[0, 10, 10], logits[1, 10, 10], logits[2] = torch.nan, torch.inf, -torch.inf
    scores, boxes = Upscaling(random_sam(bench.device), (IMG_SIZE, IMG_SIZE), (700, 700)).measure(logits, offset=1.0)
    assert boxes.tolist() == [[0, 0, 699, 699]] * 2 + [[0, 0, 0, 0]], boxes
    assert (scores[:2] == 1).all(), scores
    assert np.isnan(scores[2]), scores
    return {}


CHECKS = (measures_are_those_of_two_resizes, pixels_are_those_of_the_cpu, odd_logits_are_no_pixels)


def _masks(bench: Bench) -> list[tuple[Upscaling, Tensor]]:
    """For each size, blobs as (masks, rows, 256) logits."""
    sam = random_sam(bench.device)
    found = []
    for size in SIZES_HW if bench.device == "cuda" else SIZES_HW[-2:]:
        upscaling = Upscaling(sam, preprocess_shape(*size, IMG_SIZE), size)
        coarse = torch.randn(4, 1, 12, 12, generator=torch.Generator().manual_seed(2)).to(bench.device) * 8
        logits = F.interpolate(coarse, (256, 256), mode="bicubic")[:, 0]
        found.append((upscaling, logits[:, : 4 * upscaling.num_embedding_rows].contiguous()))
    return found


def _two_resizes(upscaling: Upscaling, logits: Tensor) -> Tensor:
    """Full-resolution logits, (masks, H, W), as the official package computes them."""
    padded = F.pad(logits, (0, 0, 0, logits.shape[-1] - logits.shape[-2]))
    return upscaling.sam.postprocess_masks(padded[None], upscaling.input_size, upscaling.crop_size)[0]
