"""Batch sizes of the image encoders with their peak memory, and what cuDNN's attention is worth."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch

from sam_pipeline.masks.decoder.shared_decoder import SharedDecoder
from sam_pipeline.masks.prediction import encode
from sam_pipeline.model.sam import Sam
from tests.gpu.bench import Bench
from tests.gpu.instruments.clock import milliseconds, peak_gib, seconds
from tests.gpu.instruments.results import Figures
from tests.gpu.networks import grid_of_points, random_embedding, random_sam
from tests.gpu.passes import INPUT_SIZE_HW, NUM_ROWS, two_in_five
from tests.gpu.product import random_model
from tests.gpu.running import Cases

PROMPT_COUNTS = (1, 2, 3, 5, 8, 13, 21, 34, 55, 89)


def cases(bench: Bench) -> Cases:
    for model_type in bench.scale.encoders:
        sam = random_model(bench, model_type)
        for batch_size in bench.scale.batch_sizes:
            yield f"{model_type}, batch {batch_size}", partial(_encoder, bench, sam, batch_size)
        yield f"{model_type}, cuDNN off", _without_cudnn(partial(_encoder, bench, sam, bench.scale.batch_sizes[0]))
    decoder = SharedDecoder(random_sam(bench.device), bench.scale.precision)
    yield "changing number of prompts", partial(_changing_prompts, bench, decoder)
    yield "changing number of prompts, cuDNN off", _without_cudnn(partial(_changing_prompts, bench, decoder))


def _encoder(bench: Bench, sam: Sam, batch_size: int) -> Figures:
    pixels = np.random.default_rng(5).integers(0, 256, (*INPUT_SIZE_HW, 3), dtype=np.uint8)

    def work() -> None:
        encode(sam, [pixels] * batch_size, "fp16")

    peak = peak_gib(work)
    taken = milliseconds(work, bench.scale.repeats) / batch_size
    return {"ms": taken, "images_per_s": 1000 / taken, "peak_gib": peak}


def _changing_prompts(bench: Bench, decoder: SharedDecoder) -> Figures:
    """The first call with each number of prompts beside the second: what planning a new shape costs."""
    shared = decoder.share(random_embedding(bench.device))
    points, labels = grid_of_points(10, bench.device)
    firsts, again = [], []
    for count in PROMPT_COUNTS if bench.device == "cuda" else PROMPT_COUNTS[:1]:
        some = points[:count], labels[:count]
        for times in (firsts, again):
            times.append(1000 * seconds(lambda: decoder.decode(shared, some, two_in_five, NUM_ROWS)))  # noqa: B023
    return {"slowest_first_ms": max(firsts), "slowest_second_ms": max(again), "first_ms": firsts}


def _without_cudnn(case: Callable[[], Figures]) -> Callable[[], Figures]:
    def run() -> Figures:
        with _cudnn_off():
            return case()

    return run


@contextmanager
def _cudnn_off() -> Iterator[None]:
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(True)
