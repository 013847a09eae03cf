"""What torch.compile would make of the image encoders."""

from __future__ import annotations

from functools import partial

import torch

from sam_pipeline.model.sam import Sam
from tests.gpu.bench import Bench
from tests.gpu.clock import milliseconds, seconds
from tests.gpu.product import random_model
from tests.gpu.results import Figures
from tests.gpu.running import Cases


def cases(bench: Bench) -> Cases:
    for model_type in bench.scale.encoders:
        yield model_type, partial(_compiled, bench, random_model(bench, model_type))


def _compiled(bench: Bench, sam: Sam) -> Figures:
    """A dry run traces the encoder and leaves out the compiler, which takes a minute on a CPU."""
    encoder = sam.image_encoder
    compiled = torch.compile(encoder, backend="inductor" if bench.device == "cuda" else "eager")
    batch_size = bench.scale.batch_sizes[0]
    batch = torch.randn(batch_size, 3, encoder.img_size, encoder.img_size, device=bench.device)
    with torch.autocast(bench.device, dtype=torch.bfloat16):
        compiling = seconds(lambda: compiled(batch))
        eager, fused = (milliseconds(lambda: one(batch), bench.scale.repeats) for one in (encoder, compiled))  # noqa: B023
    return {"compiling_s": compiling, "eager_ms": eager / batch_size, "compiled_ms": fused / batch_size}
