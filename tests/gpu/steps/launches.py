"""Each kernel as it is launched, and other launches; one that does not fit is a result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from sam_pipeline.masks.decoder.gpu.image_side import HOPPER, Launch
from tests.gpu.bench import Bench
from tests.gpu.instruments.clock import milliseconds
from tests.gpu.instruments.kernels import counted_launches
from tests.gpu.instruments.results import Figures
from tests.gpu.passes import calls_of_passes, image_side
from tests.gpu.running import Cases


class Variant(NamedTuple):
    """A call, and launches of which one is another than the product's."""

    call: str
    option: str
    launch: Launch


VARIANTS = (
    Variant("upscaling", "upscaling", Launch(64, num_warps=8)),
    Variant("upscaling", "upscaling", Launch(128, num_warps=8)),
    Variant("first layer", "weighing", Launch(128, num_warps=8)),
    Variant("second layer", "weighing", Launch(128, num_warps=8)),
    Variant("first layer", "attending", Launch(64, num_warps=4)),
    Variant("second layer", "attending", Launch(64, num_warps=4)),
)
"""Those that compiled code speaks for. Each takes seconds to compile."""


def cases(bench: Bench) -> Cases:
    for call in calls_of_passes(bench, image_side(bench)):
        yield f"{call}, as it is", _timed(bench, call, None)
    for variant in VARIANTS if bench.device == "cuda" else VARIANTS[:1]:
        launch = variant.launch
        label = f"tile {launch.tile}, {launch.num_warps} warps"
        yield f"{variant.call}, {variant.option}: {label}", _timed(bench, variant.call, variant)


def _timed(bench: Bench, call: str, variant: Variant | None) -> Callable[[], Figures]:
    def case() -> Figures:
        side = image_side(bench, HOPPER if variant is None else replace(HOPPER, **{variant.option: variant.launch}))
        try:
            function = calls_of_passes(bench, side)[call]
            with counted_launches() as launches:
                taken = milliseconds(function, bench.scale.repeats)
            return {"ms": taken, "launches": sum(launches.values())}
        except Exception as error:
            if "out of resource" not in str(error):
                raise
            return {"does_not_fit": str(error)[:100]}

    return case
