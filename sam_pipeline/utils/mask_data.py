"""A bag of lists, arrays and tensors of equal length that are filtered and joined together."""

from __future__ import annotations

from collections.abc import ItemsView
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import Tensor

_KINDS = (list, np.ndarray, Tensor)


class MaskData:
    """Values of N masks by name, as `MaskData` of segment_anything/utils/amg.py.

    Only scripts for that package use it; what this project's own generator holds is `masks/candidates.py`.

    Raises:
        TypeError: a value is no list, array or tensor.
    """

    def __init__(self, **kwargs: Any) -> None:
        self._stats: dict[str, Any] = {}
        for key, item in kwargs.items():
            self[key] = item

    def __setitem__(self, key: str, item: Any) -> None:
        if not isinstance(item, _KINDS):
            raise TypeError(f"MaskData takes lists, NumPy arrays and tensors, got {type(item).__name__} for {key}")
        self._stats[key] = item

    def __delitem__(self, key: str) -> None:
        del self._stats[key]

    def __getitem__(self, key: str) -> Any:
        return self._stats[key]

    def items(self) -> ItemsView[str, Any]:
        """Names and values."""
        return self._stats.items()

    def filter(self, keep: Tensor) -> None:
        """Leave those masks that `keep` names: (N,) bool, or indices in the order that they shall have."""
        for key, values in self._stats.items():
            if isinstance(values, Tensor):
                self._stats[key] = values[torch.as_tensor(keep, device=values.device)]
            elif isinstance(values, np.ndarray):
                self._stats[key] = values[keep.detach().cpu().numpy()]
            else:
                indices = torch.where(keep)[0] if keep.dtype == torch.bool else keep
                self._stats[key] = [values[i] for i in indices.tolist()]

    def cat(self, new_stats: MaskData) -> None:
        """Append the masks of another; names that this one lacks are copied."""
        for key, values in new_stats.items():
            if key not in self._stats:
                self._stats[key] = deepcopy(values)
            elif isinstance(values, Tensor):
                self._stats[key] = torch.cat([self._stats[key], values])
            elif isinstance(values, np.ndarray):
                self._stats[key] = np.concatenate([self._stats[key], values])
            else:
                self._stats[key] = self._stats[key] + deepcopy(values)

    def to_numpy(self) -> None:
        """Make arrays of the tensors."""
        for key, values in self._stats.items():
            if isinstance(values, Tensor):
                self._stats[key] = values.detach().cpu().numpy()
