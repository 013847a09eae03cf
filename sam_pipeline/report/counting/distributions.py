"""Histograms and quantiles of values that come in parts, in memory that does not grow with their number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_MOST_BINS, _MOST_BINS_OF_FEW, _FEWEST_BINS = 32, 8, 5

# Stored scores are float32: 0.88 is a little less there, and belongs to the bin that begins with 0.88.
_DIGITS = 6


@dataclass(frozen=True)
class Distribution:
    """How values are spread. All but num is None, or empty, where there are no values."""

    num: int
    """Values."""
    mean: float | None = None
    min: float | None = None
    p05: float | None = None
    """A twentieth of the values lies below it; exact to a step of the counter, as the median and p95."""
    median: float | None = None
    p95: float | None = None
    max: float | None = None
    edges: tuple[float, ...] = ()
    """Of the bins of a histogram: a bin holds its lower edge, and not its upper one. Values beyond the first and last
    edge are in the first and last bin."""
    counts: tuple[int, ...] = ()
    """Values in each bin, one fewer than edges."""


class DistributionCounter:
    """Counts values in steps, and joins steps to bins in the end.

    Args:
        steps: edges of the steps, ascending. They limit how exact quantiles are.
        joined: how many steps a bin may have, ascending; the first of them that makes few enough bins is taken.
        are_whole: values are integers and a step is one of them, so that quantiles are exact.
    """

    def __init__(self, steps: NDArray[np.float64], joined: Sequence[int], *, are_whole: bool = False) -> None:
        self._steps, self._joined, self._are_whole = steps, joined, are_whole
        self._counts = np.zeros(len(steps) - 1, dtype=np.int64)
        self._sum, self._min, self._max = 0.0, np.inf, -np.inf

    def add(self, values: NDArray[np.float64]) -> None:
        """Count values, (n,); those that are NaN are left out."""
        values = values[~np.isnan(values)].astype(np.float64, copy=False)
        if not len(values):
            return
        found = np.searchsorted(self._steps, values.round(_DIGITS), side="right") - 1
        self._counts += np.bincount(found.clip(0, len(self._counts) - 1), minlength=len(self._counts))
        self._sum += float(values.sum())
        self._min, self._max = min(self._min, float(values.min())), max(self._max, float(values.max()))

    def distribution(self) -> Distribution:
        """What was counted so far."""
        num = int(self._counts.sum())
        if not num:
            return Distribution(0)
        edges, counts = self._bins()
        p05, median, p95 = (self._quantile(share) for share in (0.05, 0.5, 0.95))
        return Distribution(num, self._sum / num, self._min, p05, median, p95, self._max, edges, counts)

    def _quantile(self, share: float) -> float:
        upto = np.cumsum(self._counts)
        rank = share * upto[-1]
        step = int(np.searchsorted(upto, rank))
        if self._are_whole:
            return float(self._steps[step])
        low, high = self._steps[step : step + 2]
        within = (rank - (upto[step] - self._counts[step])) / self._counts[step]
        return float(np.clip(low + within * (high - low), self._min, self._max))

    def _bins(self) -> tuple[tuple[float, ...], tuple[int, ...]]:
        used = np.flatnonzero(self._counts)
        # Of few values, many bins would hold none.
        most = min(_MOST_BINS, max(_MOST_BINS_OF_FEW, int(2 * np.sqrt(self._counts.sum()))))
        for each in self._joined:
            first, last = used[0] // each, used[-1] // each
            if last - first < most:
                break
        # A chart of one or two bins says little: there are empty ones around them.
        missing = max(0, _FEWEST_BINS - (last - first + 1))
        first = max(0, first - missing // 2)
        last = min(max(last, first + _FEWEST_BINS - 1), (len(self._counts) - 1) // each)
        starts = np.arange(first, last + 1) * each
        ends = np.minimum(starts[-1] + each, len(self._counts))
        counts = np.add.reduceat(self._counts[:ends], starts)
        return tuple(self._steps[[*starts, ends]].tolist()), tuple(counts.tolist())


def share_counter(upto: float = 1.0) -> DistributionCounter:
    """For scores and shares from 0 on, in steps of a thousandth."""
    num = round(upto * 1000)
    return DistributionCounter(np.arange(num + 1) / 1000, (5, 10, 20, 50, 100, 200, 500, 1000))


def number_counter() -> DistributionCounter:
    """For numbers of things, exact up to 100,000."""
    return DistributionCounter(
        np.arange(100_001, dtype=np.float64), (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 5000), are_whole=True
    )


def area_counter() -> DistributionCounter:
    """For areas in pixels: steps of 2.3 %, four bins for each power of ten."""
    return DistributionCounter(10 ** (np.arange(1001) / 100), (25, 50))
