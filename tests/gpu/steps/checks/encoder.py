"""Image encoders on the device against the CPU, with random positions."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sam_pipeline.masks.prediction import encode
from tests.gpu.bench import Bench
from tests.gpu.instruments.results import Figures
from tests.gpu.networks import IMG_SIZE, sam_around, shallow_encoder

SIZES_HW = ((683, IMG_SIZE), (IMG_SIZE, 683), (IMG_SIZE, 7))
"""Landscape, portrait and a strip, of the model's input, in one batch."""


def encoder_is_that_of_the_cpu(bench: Bench, model_type: str) -> Figures:
    """float32 is exact, float16 close, bfloat16 less so."""
    sam = sam_around(shallow_encoder(model_type))
    random = np.random.default_rng(4)
    images = [random.integers(0, 256, (*size, 3), dtype=np.uint8) for size in SIZES_HW]
    expected = encode(sam, images)
    sam = sam.to(bench.device)
    exact, fp16, bf16 = (encode(sam, images, precision).float().cpu() for precision in ("fp32", "fp16", "bf16"))
    figures = {
        "fp32_difference": _largest(exact, expected),
        "fp16_relative_rms_error": _rms(fp16, expected),
        "bf16_relative_rms_error": _rms(bf16, expected),
    }
    assert figures["fp32_difference"] < 1e-3, figures
    assert figures["fp16_relative_rms_error"] < 0.00625, figures
    assert figures["bf16_relative_rms_error"] < 0.05, figures
    return figures


def _largest(ours: Tensor, theirs: Tensor) -> float:
    assert torch.isfinite(ours).all()
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def _rms(ours: Tensor, theirs: Tensor) -> float:
    assert torch.isfinite(ours).all()
    return ((ours - theirs).pow(2).mean() / theirs.pow(2).mean()).sqrt().item()
