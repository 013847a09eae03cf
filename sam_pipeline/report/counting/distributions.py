"""Histograms and quantiles of values that come in parts, in memory that does not grow with their number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_MOST_BINS, _MOST_BINS_OF_FEW, _FEWEST_BINS = 32, 8, 5

# Stored scores are float32: 0.88 is a little less there, and belongs to the bin that begins with 0.88.
_DIGITS = 6

# Beyond the values that are counted exactly.
_DECADES = 6


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
    """Edges of the bins of a histogram: a bin holds its lower edge, and not its upper one. Values beyond the first and
    last edge are in the first and last bin."""
    counts: tuple[int, ...] = ()
    """Values in each bin, one fewer than edges."""


class DistributionCounter:
    """Counts values in steps, and joins steps to bins in the end.

    Args:
        steps: edges of the steps, ascending. They limit how exact quantiles are.
        bins: edges of bins as places in steps, ascending; of several choices, narrow bins first. The first choice is
            taken that holds all values in few enough bins.
        are_whole: values are integers and a step is one of them, so that quantiles are exact.
    """

    def __init__(
        self, steps: NDArray[np.float64], bins: Sequence[NDArray[np.int64]], *, are_whole: bool = False
    ) -> None:
        self._steps, self._choices, self._are_whole = steps, bins, are_whole
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
            return float(np.clip(self._steps[step], self._min, self._max))
        low, high = self._steps[step : step + 2]
        # The outermost steps hold what is beyond them too.
        low = min(low, self._min) if step == 0 else low
        high = max(high, self._max) if step == len(self._counts) - 1 else high
        within = (rank - (upto[step] - self._counts[step])) / self._counts[step]
        return float(np.clip(low + within * (high - low), self._min, self._max))

    def _bins(self) -> tuple[tuple[float, ...], tuple[int, ...]]:
        used = np.flatnonzero(self._counts)
        # Of few values, many bins would hold none.
        most = min(_MOST_BINS, max(_MOST_BINS_OF_FEW, int(2 * np.sqrt(self._counts.sum()))))
        for edges in self._choices:
            first, last = np.searchsorted(edges, used[[0, -1]], side="right") - 1
            if first >= 0 and last < len(edges) - 1 and last - first < most:
                break
        # A chart of one or two bins says little: there are empty ones around them, but none below 0 without need.
        missing = max(0, _FEWEST_BINS - (last - first + 1))
        least = min(first, np.searchsorted(self._steps[edges], 0.0))
        first = max(least, first - missing // 2)
        last = min(max(last, first + _FEWEST_BINS - 1), len(edges) - 2)
        bins = edges[first : last + 2]
        counts = np.add.reduceat(self._counts[: bins[-1]], bins[:-1])
        return tuple(self._steps[bins].tolist()), tuple(counts.tolist())


def share_counter() -> DistributionCounter:
    """For shares from 0 to 1, in steps of a thousandth."""
    steps = np.arange(1001)
    return DistributionCounter(steps / 1000, _even_bins(steps, 5))


def score_counter() -> DistributionCounter:
    """For scores of any kind: in steps of a thousandth from -10 to 10, and of 1 % of the value beyond."""
    above = _widening_steps(10_000)
    steps = np.concatenate([-above[:0:-1], above])
    return DistributionCounter(steps / 1000, _even_bins(steps, 5))


def number_counter() -> DistributionCounter:
    """For numbers of things, exact up to 100,000, and to 1 % beyond."""
    steps = _widening_steps(100_000)
    return DistributionCounter(steps.astype(np.float64), _even_bins(steps, 1), are_whole=True)


def area_counter() -> DistributionCounter:
    """For areas in pixels: steps of 2.3 %, four bins for each power of ten."""
    return DistributionCounter(10 ** (np.arange(1001) / 100), [np.arange(0, 1001, each) for each in (25, 50)])


def _widening_steps(exact: int) -> NDArray[np.int64]:
    """Edges 0, 1, 2, … up to a power of ten, and then 900 for each power of ten."""
    decades = [np.arange(100, 1000) * (exact * 10**power // 100) for power in range(_DECADES)]
    return np.concatenate([np.arange(exact), *decades, [exact * 10**_DECADES]])


def _even_bins(steps: NDArray[np.int64], narrowest: int) -> list[NDArray[np.int64]]:
    """Choices of bins that are equally wide: 1, 2 or 5 times a power of ten, from the narrowest on."""
    gaps = np.diff(steps)
    widths = [each * 10**power for power in range(len(str(steps[-1]))) for each in (1, 2, 5)]
    choices = []
    for width in widths:
        # Far from 0 steps may be wider than these bins, which therefore end before them.
        fitting = np.flatnonzero(width % gaps == 0)
        if width >= narrowest and len(fitting):
            edges = np.arange(fitting[0], fitting[-1] + 2)
            choices.append(edges[steps[edges] % width == 0])
    return [each for each in choices if len(each) > 1]
