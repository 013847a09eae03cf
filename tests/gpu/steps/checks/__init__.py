"""The CUDA path against the plain networks, torch's two resizes and the CPU, on random weights."""

from __future__ import annotations

from functools import partial

from tests.gpu.bench import Bench
from tests.gpu.running import Cases
from tests.gpu.steps.checks import decoder, masks
from tests.gpu.steps.checks.encoder import encoder_is_that_of_the_cpu


def cases(bench: Bench) -> Cases:
    for check in (*decoder.CHECKS, *masks.CHECKS):
        yield check.__name__, partial(check, bench)
    for model_type in bench.scale.checked_encoders:
        yield f"encoder {model_type}", partial(encoder_is_that_of_the_cpu, bench, model_type)
