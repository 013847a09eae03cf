"""Where the device's time goes: one batch of each encoder, and the masks of three photographs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from sam_pipeline.masks.generator import MaskGenerator
from sam_pipeline.masks.prediction import encode
from sam_pipeline.model.registry import build_sam
from tests.gpu.bench import Bench
from tests.gpu.instruments.profiling import device_kernels
from tests.gpu.instruments.results import Figures
from tests.gpu.passes import INPUT_SIZE_HW
from tests.gpu.product import as_tensor, embeddings_of_photographs, mask_config, random_model, vit_t_weights
from tests.gpu.running import Cases

PHOTOGRAPHS = 3


def cases(bench: Bench) -> Cases:
    sam = build_sam("vit_t", vit_t_weights()).to(bench.device)
    generator = MaskGenerator(sam, mask_config(bench), bench.scale.precision)
    embeddings = [as_tensor(bench, embedding) for embedding in embeddings_of_photographs(bench)[:PHOTOGRAPHS]]

    def detect() -> None:
        for embedding in embeddings:
            generator.detect(embedding, bench.scale.photograph_hw)

    yield "detect", partial(_profiled, detect, len(embeddings))
    pixels = [np.random.default_rng(5).integers(0, 256, (*INPUT_SIZE_HW, 3), dtype=np.uint8)] * bench.scale.batch_sizes[
        0
    ]
    for model_type in bench.scale.encoders:
        large = random_model(bench, model_type)
        yield f"{model_type} encode", partial(_profiled, partial(encode, large, pixels, "fp16"), len(pixels))


def _profiled(work: Callable[[], object], num_images: int) -> Figures:
    """Times are of all images."""
    kernels = device_kernels(work)
    return {"images": num_images, "longest": kernels[0]["kernel"], "longest_ms": kernels[0]["ms"], "kernels": kernels}
