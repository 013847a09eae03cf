"""Float16 on a CPU in bearable time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

_PRODUCTS = {F.conv2d, F.linear, F.scaled_dot_product_attention, torch.einsum}
_PRODUCTS |= {torch.addmm, torch.baddbmm, Tensor.__matmul__}


class ProductsOfFloat16(TorchFunctionMode):
    """Products of float16, also under autocast to it: computed in float32 of rounded operands, their results rounded.

    That is what tensor cores compute, and what torch does on a CPU as well, in 19 times the time. All else, such as
    norms and activations, is torch's own in float16. Only in this thread.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call the function, or a product in its place."""
        kwargs = kwargs or {}
        if func not in _PRODUCTS or not (_is_autocast() or any(map(_is_float16, args))):
            return func(*args, **kwargs)
        with torch.autocast("cpu", enabled=False):
            product: Tensor = func(*map(_rounded, args), **{name: _rounded(value) for name, value in kwargs.items()})
        return product.half()


def _is_autocast() -> bool:
    return torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.float16


def _is_float16(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype == torch.float16


def _rounded(value: Any) -> Any:
    return value.half().float() if isinstance(value, Tensor) else value
