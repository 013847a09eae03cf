"""What torch.compile would make of the blocks of the image encoders."""

from __future__ import annotations

from functools import partial

import torch

from sam_pipeline.model.sam import Sam
from tests.gpu.bench import Bench
from tests.gpu.instruments.clock import milliseconds, seconds
from tests.gpu.instruments.results import Figures
from tests.gpu.product import random_model
from tests.gpu.running import Cases


def cases(bench: Bench) -> Cases:
    for model_type in bench.scale.encoders:
        if model_type != "vit_t":
            yield model_type, partial(_compiled, bench, random_model(bench, model_type))


def _compiled(bench: Bench, sam: Sam) -> Figures:
    """Block by block: there are two kinds. A dry run traces them and leaves out the compiler, which takes a minute."""
    encoder = sam.image_encoder
    batch_size = bench.scale.batch_sizes[0]
    batch = torch.randn(batch_size, 3, encoder.img_size, encoder.img_size, device=bench.device)

    def encode() -> None:
        with torch.autocast(bench.device, dtype=torch.float16):
            encoder(batch)

    eager = milliseconds(encode, bench.scale.repeats)
    for block in encoder.blocks:
        block.compile(backend="inductor" if bench.device == "cuda" else "eager")
    compiling = seconds(encode)
    compiled = milliseconds(encode, bench.scale.repeats)
    return {"compiling_s": compiling, "eager_ms": eager / batch_size, "compiled_ms": compiled / batch_size}
