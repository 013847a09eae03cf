"""What the kernels of `triton_masks` compute of neighbouring numbers."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def extremes(first: tl.tensor, real: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """The smallest and the largest of three neighbours; the largest is NaN if one of them is."""
    a, b, c = three(first, real)
    return tl.minimum(tl.minimum(a, b), c), maximum(maximum(a, b), c)


@triton.jit
def maximum(a: tl.tensor, b: tl.tensor) -> tl.tensor:
    """The larger of two; NaN if either is NaN."""
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def two(first: tl.tensor, real: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """Two neighbouring numbers, zeros where not real."""
    return tl.load(first, mask=real, other=0), tl.load(first + 1, mask=real, other=0)


@triton.jit
def three(first: tl.tensor, real: tl.tensor, other: tl.constexpr = 0.0) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Three neighbouring numbers, `other` where not real."""
    return (
        tl.load(first, mask=real, other=other),
        tl.load(first + 1, mask=real, other=other),
        tl.load(first + 2, mask=real, other=other),
    )


@triton.jit
def weighted(
    weight0: tl.tensor, weight1: tl.tensor, weight2: tl.tensor, value0: tl.tensor, value1: tl.tensor, value2: tl.tensor
) -> tl.tensor:
    """Three values, weighted."""
    value = weight0 * value0
    value += weight1 * value1
    return value + weight2 * value2
