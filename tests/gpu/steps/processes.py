"""An encoder and a decoder in two processes that share the device, as two actors do: images a second of each."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier

from tests.gpu.bench import Bench
from tests.gpu.instruments.results import Figures
from tests.gpu.product import (
    DECODED_AT_ONCE,
    ENCODED_AT_ONCE,
    embeddings_of_photographs,
    encoded,
    engine,
    mask_config,
    photographs,
    prepared,
    random_weights,
    vit_t_weights,
)
from tests.gpu.running import Cases
from tests.gpu.steps.engine import FINISHERS

STARTED_WITHIN_S = 40


def cases(bench: Bench) -> Cases:
    for model_type in bench.scale.large_models:
        yield model_type, partial(_together, bench, model_type)


def _together(bench: Bench, model_type: str) -> Figures:
    # This process has not touched CUDA, so that it may fork. Its children end with it when its time is up.
    context = multiprocessing.get_context("fork")
    ready, rates = context.Barrier(2), context.Queue()
    processes = [context.Process(target=role, args=(bench, model_type, ready, rates)) for role in (_encode, _decode)]
    for process in processes:
        process.start()
    found = dict(rates.get(timeout=STARTED_WITHIN_S + 4 * bench.scale.together_s) for _ in processes)
    for process in processes:
        process.join()
    return {**found, "images_per_s": min(found.values())}


def _encode(bench: Bench, model_type: str, ready: Barrier, rates: Queue[tuple[str, float]]) -> None:
    encoder = engine(bench, model_type, random_weights(bench, model_type))
    crops = prepared(photographs(bench)[:ENCODED_AT_ONCE], mask_config(bench))

    def work() -> int:
        return len(list(encoder.encode(crops, ENCODED_AT_ONCE)))

    rates.put(("encoded_per_s", _rate(work, ready, bench.scale.together_s)))


def _decode(bench: Bench, _: str, ready: Barrier, rates: Queue[tuple[str, float]]) -> None:
    to_decode = encoded(embeddings_of_photographs(bench)[:DECODED_AT_ONCE], bench.scale.photograph_hw)
    decoder = engine(bench, "vit_t", vit_t_weights(), FINISHERS[-1])

    def work() -> int:
        return len(list(decoder.decode(to_decode)))

    rates.put(("decoded_per_s", _rate(work, ready, bench.scale.together_s)))


def _rate(work: Callable[[], int], ready: Barrier, duration_s: float) -> float:
    work()
    ready.wait(STARTED_WITHIN_S)
    start, done = time.perf_counter(), 0
    while done == 0 or time.perf_counter() - start < duration_s:
        done += work()
    return done / (time.perf_counter() - start)
