"""Products of matrices that fit into the caches, in numba kernels.

A library's product of matrices this small loses a third of its time or more on calls and on moving operands
(benchmarks/LOG.md), and its result goes through memory before the next step reads it. Here a block of the result stays
in registers while one row of the right operand after the other is read. LLVM does not find this by itself, so the block
is written as LLVM's instructions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import config, types
from numba.core import cgutils, codegen
from numba.core.errors import TypingError
from numba.extending import intrinsic
from numpy.typing import NDArray

from sam_pipeline.masks.decoder.cpu.compiling import kernel

Floats = NDArray[np.float32]


def _block_shape() -> tuple[int, int]:
    """Numbers in a vector register, and rows of a block.

    The sums of a block, two vectors a row, and three operands take 19 of the 32 registers of AVX-512 and NEON, or 11 of
    16.
    """
    # numba makes its settings when it is imported, and has no types for its core.
    asked_for: str | None = config.CPU_FEATURES  # type: ignore[attr-defined]
    features: str = codegen.get_host_cpu_features() if asked_for is None else asked_for  # type: ignore[no-untyped-call]
    if "+avx512f" in features:
        return 16, 8
    if "+avx2" in features:
        return 8, 4
    return (4, 8) if "+neon" in features else (4, 4)


LANES, ROWS = _block_shape()
"""Columns of right operands and results come in multiples of LANES, rows of left operands in multiples of ROWS."""

_NUMBER, _INDEX, _VECTOR = ir.FloatType(), ir.IntType(64), ir.VectorType(ir.FloatType(), LANES)


def _block(vectors: int, adds: bool) -> Any:
    """A function of a, b, out, row and column, for numba kernels.

    It computes rows `row` to `row + ROWS` and columns `column` to `column + vectors * LANES` of a @ b, and puts them
    into the same place of `out`, or adds them to what is there.
    """

    def block(context: Any, a: Any, b: Any, out: Any, row: Any, column: Any) -> Any:
        if not all(_is_matrix(of) for of in (a, b, out)):
            raise TypingError(f"products take float32 matrices whose rows are contiguous, not {a}, {b} and {out}")
        signature = types.void(a, b, out, types.int64, types.int64)
        return signature, lambda context, builder, signature, args: _emit_block(
            context, builder, signature, args, vectors, adds
        )

    return intrinsic(block)


def _is_matrix(of: Any) -> bool:
    return isinstance(of, types.Array) and of.dtype == types.float32 and of.ndim == 2 and of.layout in "CA"


def _emit_block(context: Any, builder: Any, signature: Any, args: Any, vectors: int, adds: bool) -> Any:
    """Code for a function that `_block` makes."""
    a, b, out = (
        context.make_array(matrix)(context, builder, arg)
        for matrix, arg in zip(signature.args[:3], args[:3], strict=True)
    )
    row, column = args[3:]
    depth = builder.extract_value(a.shape, 1)
    a_rows = [_address(builder, a, builder.add(row, _INDEX(r)), _INDEX(0)) for r in range(ROWS)]
    out_rows = [_vectors(builder, out, builder.add(row, _INDEX(r)), column, vectors) for r in range(ROWS)]
    zero = ir.Constant(_VECTOR, [0.0] * LANES)
    before, loop, after = builder.block, builder.append_basic_block("depth"), builder.append_basic_block("block")

    builder.branch(loop)
    builder.position_at_end(loop)
    k = builder.phi(_INDEX)
    sums = [[builder.phi(_VECTOR) for _ in range(vectors)] for _ in range(ROWS)]
    b_vectors = [_load(builder, place) for place in _vectors(builder, b, k, column, vectors)]
    next_sums = []
    for a_row, row_sums in zip(a_rows, sums, strict=True):
        factor = _in_all_lanes(builder, builder.load(builder.gep(a_row, [k])))
        next_sums.append([_multiply_add(builder, factor, *pair) for pair in zip(b_vectors, row_sums, strict=True)])
    next_k = builder.add(k, _INDEX(1))
    k.add_incoming(_INDEX(0), before)
    k.add_incoming(next_k, loop)
    for r in range(ROWS):
        for v in range(vectors):
            sums[r][v].add_incoming(zero, before)
            sums[r][v].add_incoming(next_sums[r][v], loop)
    builder.cbranch(builder.icmp_signed("<", next_k, depth), loop, after)

    builder.position_at_end(after)
    for places, totals in zip(out_rows, next_sums, strict=True):
        for place, total in zip(places, totals, strict=True):
            # What is there is added last: a long sum in parts is more exact.
            result = builder.fadd(_load(builder, place), total) if adds else total
            builder.store(result, place).align = 4
    return context.get_dummy_value()


def _address(builder: Any, matrix: Any, row: Any, column: Any) -> Any:
    """Pointer to a number."""
    bytes_before = builder.mul(row, builder.extract_value(matrix.strides, 0))
    start = builder.gep(builder.bitcast(matrix.data, ir.IntType(8).as_pointer()), [bytes_before])
    return builder.gep(builder.bitcast(start, _NUMBER.as_pointer()), [column])


def _vectors(builder: Any, matrix: Any, row: Any, column: Any, number: int) -> list[Any]:
    """Pointers to vectors that follow one another."""
    start = _address(builder, matrix, row, column)
    places = [builder.gep(start, [_INDEX(v * LANES)]) for v in range(number)]
    return [builder.bitcast(place, _VECTOR.as_pointer()) for place in places]


def _load(builder: Any, place: Any) -> Any:
    """A vector from anywhere."""
    vector = builder.load(place)
    vector.align = 4
    return vector


def _in_all_lanes(builder: Any, number: Any) -> Any:
    """The number in each place of a vector."""
    undefined, lane = ir.Constant(_VECTOR, ir.Undefined), ir.IntType(32)
    vector = builder.insert_element(undefined, number, lane(0))
    return builder.shuffle_vector(vector, undefined, ir.Constant(ir.VectorType(lane, LANES), [0] * LANES))


def _multiply_add(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """A * b + c of vectors. `llvm.fma`, which rounds once, would call a function for each number on some processors."""
    function = ir.FunctionType(_VECTOR, [_VECTOR] * 3)
    name = f"llvm.fmuladd.v{LANES}f32"
    intrinsic_function = cgutils.get_or_insert_function(builder.module, function, name)  # type: ignore[no-untyped-call]
    return builder.call(intrinsic_function, [a, b, c])


_set_two, _set_one, _add_two, _add_one = _block(2, False), _block(1, False), _block(2, True), _block(1, True)


@kernel
def multiply(a: Floats, b: Floats, out: Floats) -> None:
    """Multiply: out = a @ b.

    Args:
        a: (rows, depth), rows a multiple of ROWS, depth at least 1.
        b: (depth, columns), columns a multiple of LANES. Here and in the others the numbers of a row are neighbours.
        out: (at least rows, at least columns).
    """
    rows, columns = a.shape[0], b.shape[1]
    for row in range(0, rows, ROWS):
        for column in range(0, columns - LANES, 2 * LANES):
            _set_two(a, b, out, row, column)
        if columns % (2 * LANES):
            _set_one(a, b, out, row, columns - LANES)


@kernel
def add_product(a: Floats, b: Floats, out: Floats) -> None:
    """Add a @ b to `out`; arguments as of `multiply`."""
    rows, columns = a.shape[0], b.shape[1]
    for row in range(0, rows, ROWS):
        for column in range(0, columns - LANES, 2 * LANES):
            _add_two(a, b, out, row, column)
        if columns % (2 * LANES):
            _add_one(a, b, out, row, columns - LANES)
