"""Milliseconds an image for the parts of the decoder on a CUDA device, and for other ways to launch its kernels."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from sam_pipeline.masks import triton_masks
from sam_pipeline.masks.composed_resize import composed_axis
from sam_pipeline.masks.image_side import ImageSideWeights
from sam_pipeline.masks.shared_decoder import PlainDecoder, SharedDecoder
from sam_pipeline.masks.triton_image_side import Launch, TritonImageSide
from tests.gpu.networks import grid_of_points, random_embedding, random_sam

NUM_PROMPTS = 1024
NUM_ROWS = 44
"""Of 64: a 1500 x 2250 image."""


def milliseconds(function: Callable[[], object], repeats: int = 5) -> float:
    """Median time of a call on the device, after two calls that are not counted."""
    times = []
    for index in range(repeats + 2):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        function()
        end.record()
        torch.cuda.synchronize()
        if index > 1:
            times.append(start.elapsed_time(end))
    return sorted(times)[len(times) // 2]


def decoders() -> Iterator[str]:
    """Whole calls for 1024 prompts, 40 % of which have a mask worth upscaling."""
    sam, embedding, points = random_sam("cuda"), random_embedding("cuda"), grid_of_points(32, "cuda")
    for precision in ("bf16", "fp32"):
        decoder = SharedDecoder(sam, precision)
        shared = decoder.share(embedding)
        on_device = milliseconds(lambda: decoder.decode(shared, points, _two_in_five, NUM_ROWS))  # noqa: B023  called within the turn
        start = time.perf_counter()
        decoder.share(embedding)
        host = (time.perf_counter() - start) * 1e3
        peak = torch.cuda.max_memory_allocated() / 2**30
        yield f"decoder {precision}: {on_device:.2f} ms an image; share: {host:.2f} ms on the host; peak {peak:.1f} GiB"
    plain = PlainDecoder(sam)
    few = points[0][:64], points[1][:64]
    yield f"plain networks: {16 * milliseconds(lambda: plain.decode(embedding, few, _two_in_five, NUM_ROWS)):.2f} ms"


def passes() -> Iterator[str]:
    """The passes alone, as launched by default."""
    for name, call in _calls(_image_side()).items():
        yield f"{name}: {milliseconds(call):.2f} ms an image"


def masks() -> Iterator[str]:
    """1000 masks of a 1500 x 2250 image measured."""
    coarse = torch.randn(1000, 1, 12, 12, device="cuda") * 8
    low_res_masks = F.interpolate(coarse, (4 * NUM_ROWS, 256), mode="bicubic")[:, 0].contiguous()
    rows, columns = composed_axis(256, 683, 1500), composed_axis(256, 1024, 2250)
    taken = milliseconds(lambda: triton_masks.measure_masks(low_res_masks, rows, columns, 0.0, 1.0))
    yield f"measuring 1000 masks: {taken:.2f} ms"


def launches() -> Iterator[str]:
    """Every way to launch that fits, for each kernel."""
    for name, option in (("first pass", "averaging"), ("second pass", "averaging"), ("upscaling", "rebuilding")):
        yield from _sweep(name, option, tiles=(32, 64), warps=(4, 8, 16))
    yield from _sweep("upscaling", "upscaling", tiles=(64, 128), warps=(4, 8))


def _sweep(name: str, option: str, tiles: tuple[int, ...], warps: tuple[int, ...]) -> Iterator[str]:
    for tile, num_warps, num_stages in itertools.product(tiles, warps, (1, 2)):
        side = _image_side()
        setattr(side, option, Launch(tile, num_warps, num_stages))
        label = f"{name}, {option} tile={tile} num_warps={num_warps} num_stages={num_stages}"
        try:
            yield f"{label}: {milliseconds(_calls(side)[name], repeats=3):.2f} ms"
        except Exception as error:  # noqa: BLE001  a launch that does not fit is a result
            yield f"{label}: {type(error).__name__} {str(error)[:80]}"


def _image_side() -> TritonImageSide:
    return TritonImageSide(ImageSideWeights.of(random_sam("cuda")), torch.bfloat16)


def _calls(side: TritonImageSide) -> dict[str, Callable[[], object]]:
    shared = SharedDecoder(random_sam("cuda"), "bf16").share(random_embedding("cuda")).tokens

    def random(*shape: int) -> Tensor:
        return torch.randn(NUM_PROMPTS, *shape, device="cuda") / 8

    key_scores, bias, hyper_in = random(56, 128), random(56), random(3, 32)
    values, pulls, pushes = random(56, 256), random(56, 256), random(56, 256)
    kept = _two_in_five(hyper_in[..., 0])
    first, _ = side.update_first(shared, key_scores, values, pulls)
    second, _ = side.update_second(first, pushes, bias, values, pulls)
    return {
        "first pass": lambda: side.update_first(shared, key_scores, values, pulls),
        "second pass": lambda: side.update_second(first, pushes, bias, values, pulls),
        "upscaling": lambda: side.upscale(second, hyper_in, kept, (64, 64), NUM_ROWS),
    }


def _two_in_five(iou_predictions: Tensor) -> Tensor:
    kept = torch.zeros_like(iou_predictions, dtype=torch.bool)
    kept[::5, :2] = True
    kept[1::5, 0] = True
    return kept
