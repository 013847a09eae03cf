"""What the kernels of the image side have in common: matrices of a prompt, rows of image tokens, products."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor


def device_of(x: Tensor) -> Any:
    """Context manager that makes the tensor's device current: Triton launches on the current device."""
    return torch.cuda.device_of(x)  # type: ignore[no-untyped-call]  # torch has no type


@triton.jit
def load_matrix(matrices: tl.tensor, n: tl.tensor, ROWS: tl.constexpr, COLUMNS: tl.constexpr) -> tl.tensor:
    """Matrix n of (N, ROWS, COLUMNS)."""
    places = tl.arange(0, ROWS)[:, None] * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    return tl.load(matrices + n.to(tl.int64) * ROWS * COLUMNS + places)


@triton.jit
def store_matrix(
    matrices: tl.tensor, n: tl.tensor, matrix: tl.tensor, ROWS: tl.constexpr, COLUMNS: tl.constexpr
) -> None:
    """Write matrix n of (N, ROWS, COLUMNS)."""
    places = tl.arange(0, ROWS)[:, None] * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    tl.store(matrices + n.to(tl.int64) * ROWS * COLUMNS + places, matrix.to(matrices.dtype.element_ty))


@triton.jit
def store_columns(
    matrices: tl.tensor,
    n: tl.tensor,
    matrix: tl.tensor,
    first: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    """Write some columns of matrix n of (N, ROWS, COLUMNS), from `first` on."""
    places = tl.arange(0, ROWS)[:, None] * COLUMNS + (first + tl.arange(0, matrix.shape[1]))[None, :]
    tl.store(matrices + n.to(tl.int64) * ROWS * COLUMNS + places, matrix.to(matrices.dtype.element_ty))


@triton.jit
def load_tile(
    pointer: tl.tensor, tokens: tl.tensor, real: tl.tensor, stride: tl.tensor, WIDTH: tl.constexpr
) -> tl.tensor:
    """Rows of image tokens, (TILE, WIDTH)."""
    return tl.load(pointer + tokens[:, None] * stride + tl.arange(0, WIDTH)[None, :], mask=real[:, None], other=0.0)


@triton.jit
def product(a: tl.tensor, b: tl.tensor) -> tl.tensor:
    """A @ b in float32; float32 operands are not rounded to TF32."""
    return tl.dot(a, b, input_precision="ieee")


@triton.jit
def add_product(a: tl.tensor, b: tl.tensor, acc: tl.tensor) -> tl.tensor:
    """A times b plus acc, likewise."""
    return tl.dot(a, b, acc=acc, input_precision="ieee")
