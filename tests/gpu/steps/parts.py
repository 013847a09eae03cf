"""Milliseconds an image of both halves of decoding on photographs, and of the decoder beside the plain networks."""

from __future__ import annotations

import statistics
import time
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sam_pipeline.masks.decoder.plain_decoder import PlainDecoder
from sam_pipeline.masks.decoder.shared_decoder import DecodedPrompts, SharedDecoder
from sam_pipeline.masks.generator import MaskGenerator
from sam_pipeline.model.registry import build_sam
from tests.gpu.bench import Bench
from tests.gpu.instruments.clock import milliseconds, peak_gib
from tests.gpu.instruments.results import Figures
from tests.gpu.networks import grid_of_points, random_embedding, random_sam
from tests.gpu.passes import NUM_ROWS, two_in_five
from tests.gpu.product import as_tensor, embeddings_of_photographs, mask_config, vit_t_weights
from tests.gpu.running import Cases

PHOTOGRAPHS = 16
PLAIN_PROMPTS = 64
"""The plain networks hold copies of the image tokens of each."""


def cases(bench: Bench) -> Cases:
    yield "photographs", partial(_photographs, bench)
    for precision in ("fp16", "bf16", "fp32"):
        yield f"decoder {precision}", partial(_decoder, bench, SharedDecoder(random_sam(bench.device), precision))
    yield "plain networks", partial(_plain_networks, bench)


class Recorder:
    """A decoder that keeps which masks were worth upscaling."""

    def __init__(self, decoder: SharedDecoder) -> None:
        self.share = decoder.share
        self._decoder = decoder
        self.keep_mask: list[Tensor] = []

    def decode(self, *arguments: Any, **named: Any) -> DecodedPrompts:
        decoded = self._decoder.decode(*arguments, **named)
        self.keep_mask.append(decoded.keep_mask)
        return decoded


def _photographs(bench: Bench) -> Figures:
    """Both halves of decoding, one image after another, `finish` on one thread; and what is found on the way."""
    torch.set_num_threads(1)
    sam = build_sam("vit_t", vit_t_weights()).to(bench.device)
    recorder = Recorder(SharedDecoder(sam, bench.scale.precision))
    generator = MaskGenerator(sam, mask_config(bench), bench.scale.precision, recorder)  # type: ignore[arg-type]
    size = bench.scale.photograph_hw
    embeddings = [as_tensor(bench, embedding) for embedding in embeddings_of_photographs(bench)[:PHOTOGRAPHS]]
    generator.finish(generator.detect(embeddings[0], size))
    recorder.keep_mask.clear()
    detect, finish, finish_cpu, candidates, masks = [], [], [], [], []
    for embedding in embeddings:
        start = time.perf_counter()
        detections = generator.detect(embedding, size)
        detected, cpu = time.perf_counter(), time.process_time()
        masks.append(len(generator.finish(detections)))
        detect.append(1000 * (detected - start))
        finish.append(1000 * (time.perf_counter() - detected))
        finish_cpu.append(1000 * (time.process_time() - cpu))
        candidates.append(sum(len(crop.found.masks) for crop in detections))
    kept = torch.cat(recorder.keep_mask)
    return {
        "images": len(embeddings),
        "detect_ms": statistics.median(detect),
        "finish_ms": statistics.median(finish),
        "finish_cpu_ms": statistics.median(finish_cpu),
        "live_share_of_prompts": kept.any(dim=1).float().mean().item(),
        "measured": kept.sum().item() / len(embeddings),
        "candidates": statistics.mean(candidates),
        "masks": statistics.mean(masks),
    }


def _decoder(bench: Bench, decoder: SharedDecoder) -> Figures:
    """A grid of prompts, 40 % of which have a mask worth upscaling."""
    embedding, points = random_embedding(bench.device), grid_of_points(bench.scale.points_per_side, bench.device)
    shared = decoder.share(embedding)

    def decode() -> None:
        decoder.decode(shared, points, two_in_five, NUM_ROWS)

    return {
        "ms": milliseconds(decode, bench.scale.repeats),
        "share_ms": milliseconds(lambda: decoder.share(embedding), bench.scale.repeats),
        "peak_gib": peak_gib(decode),
    }


def _plain_networks(bench: Bench) -> Figures:
    points, labels = grid_of_points(bench.scale.points_per_side, bench.device)
    few = points[:PLAIN_PROMPTS], labels[:PLAIN_PROMPTS]
    plain, embedding = PlainDecoder(random_sam(bench.device)), random_embedding(bench.device)
    taken = milliseconds(lambda: plain.decode(embedding, few, two_in_five, NUM_ROWS), bench.scale.repeats)
    return {"ms": taken * len(points) / len(few[0])}
