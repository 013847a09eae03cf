"""Exponential function and GELU that LLVM turns into vector instructions, in numba kernels.

Neither numba nor LLVM has a vectorised exponential function on every machine. The polynomials are minimax fits, made in
float64; constants have the digits of float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from sam_pipeline.masks.decoder.cpu.compiling import kernel

# 1.5 * 2**23: added to a small number, it leaves the nearest integer in the lowest bits.
_ROUNDER = np.float32(12582912.0)
_SMALLEST_EXPONENT = np.float32(-126.0)
# 2**f for f from -0.5 to 0.5, relative error 2e-9, and log2 Φ(-z) for z from 0 to 7; the highest power first.
_EXP2 = tuple(map(np.float32, (0.000153375768, 0.00133998604, 0.00961851953, 0.05550329, 0.240226466, 0.693147206, 1)))
_LOG2_PHI = tuple(
    map(
        np.float32,
        (3.30926799e-05, -0.000769218663, 0.00808071354, -0.0534121001, -0.458770976, -1.1512017, -0.999993061),
    )
)
_LARGEST_Z = np.float32(7.0)
_ZERO = np.float32(0.0)


@intrinsic
def _bits(context: Any, x: Any) -> Any:
    """The int32 that has the bits of a float32."""
    return types.int32(types.float32), lambda context, builder, signature, args: builder.bitcast(
        args[0], ir.IntType(32)
    )


@intrinsic
def _from_bits(context: Any, x: Any) -> Any:
    """The float32 that has the bits of an int32."""
    return types.float32(types.int32), lambda context, builder, signature, args: builder.bitcast(
        args[0], ir.FloatType()
    )


@kernel
def _polynomial(x: np.float32, c: tuple[np.float32, ...]) -> np.float32:
    y: np.float32 = c[0] * x + c[1]
    y = y * x + c[2]
    y = y * x + c[3]
    y = y * x + c[4]
    y = y * x + c[5]
    return y * x + c[6]


@kernel
def exp2(x: np.float32) -> np.float32:
    """2**x within 2e-7 of its size for x from -126 to 127; for smaller x it is 2**-126. NaN for NaN."""
    x = max(x, _SMALLEST_EXPONENT)
    rounded = x + _ROUNDER
    y: np.float32 = _polynomial(x - (rounded - _ROUNDER), _EXP2)
    # 2 to the integer has the exponent 127 + the integer. An integer added to the exponent of y makes a number of NaN.
    # Ignored: numba gives intrinsics their first argument, the context.
    return y * _from_bits(np.int32((_bits(rounded) + np.int32(127)) << np.int32(23)))  # type: ignore[call-arg]


@kernel
def gelu(x: np.float32) -> np.float32:
    """GELU within 3e-7: x Φ(x) = max(x, 0) - |x| Φ(-|x|). NaN for NaN."""
    z = min(abs(x), _LARGEST_Z)
    return max(x, _ZERO) - z * exp2(_polynomial(z, _LOG2_PHI))
