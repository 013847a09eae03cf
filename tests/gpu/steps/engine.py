"""`SamEngine` as the product runs it, crops → bytes → masks: images a second of each half alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from sam_pipeline.pipeline.job import EncodedImage
from sam_pipeline.pipeline.workers.engine import SamEngine
from tests.gpu.bench import Bench
from tests.gpu.instruments.clock import peak_gib, seconds
from tests.gpu.instruments.kernels import DECODING, EDGES, MEASURING, TOKENS, counted_launches, require
from tests.gpu.instruments.results import Figures
from tests.gpu.product import (
    DECODED_AT_ONCE,
    ENCODED_AT_ONCE,
    Pixels,
    embeddings_of_photographs,
    encoded,
    engine,
    keep_embeddings,
    mask_config,
    photographs,
    prepared,
    random_weights,
    vit_t_weights,
)
from tests.gpu.running import Cases

FINISHERS = (2, 12)
"""Threads that make masks of what the device has found."""


def cases(bench: Bench) -> Cases:
    crops = prepared(photographs(bench), mask_config(bench))
    embeddings: list[bytes] = []
    yield "vit_t encode", partial(_encode, engine(bench, "vit_t", vit_t_weights()), crops, embeddings)
    if embeddings:  # else it failed
        keep_embeddings(bench, embeddings)
    to_decode = encoded(embeddings_of_photographs(bench), bench.scale.photograph_hw)
    for finishers in FINISHERS:
        vit_t = engine(bench, "vit_t", vit_t_weights(), finishers)
        yield f"vit_t decode, {finishers} finishers", _decoding(bench, vit_t, to_decode)
    for model_type in bench.scale.large_models:
        weights = random_weights(bench, model_type)
        large = engine(bench, model_type, weights, FINISHERS[-1])
        yield f"{model_type} encode", partial(_encode, large, crops, [])
        yield f"{model_type} decode", _decoding(bench, large, to_decode[: 2 * DECODED_AT_ONCE])


def _encode(engine: SamEngine, crops: Sequence[Pixels], embeddings: list[bytes]) -> Figures:
    """Embeddings are added to the list."""
    peak = peak_gib(lambda: list(engine.encode(crops[:ENCODED_AT_ONCE], ENCODED_AT_ONCE)))  # warms up, too
    return {**_rate(lambda: embeddings.extend(engine.encode(crops, ENCODED_AT_ONCE)), len(crops)), "peak_gib": peak}


def _decoding(bench: Bench, engine: SamEngine, images: Sequence[EncodedImage]) -> Callable[[], Figures]:
    masks: list[int] = []

    def decode(some: Sequence[EncodedImage]) -> None:
        for first in range(0, len(some), DECODED_AT_ONCE):
            masks.extend(len(found) for found in engine.decode(some[first : first + DECODED_AT_ONCE]))

    def case() -> Figures:
        decode(images[:1])  # kernels are compiled
        peak = peak_gib(lambda: decode(images[:1]))
        masks.clear()
        with counted_launches() as launches:
            rate = _rate(lambda: decode(images), len(images))
        if bench.device == "cuda":
            require(launches, (*DECODING, *TOKENS, *MEASURING, *EDGES))
        return {**rate, "masks": sum(masks) / len(images), "peak_gib": peak, "launches": dict(launches)}

    return case


def _rate(work: Callable[[], None], num_images: int) -> Figures:
    taken = seconds(work)
    return {"images": num_images, "ms": 1000 * taken / num_images, "images_per_s": num_images / taken}
