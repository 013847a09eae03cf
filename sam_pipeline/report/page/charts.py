"""Charts as the page draws them: where bars, lines and ticks are, in units of an SVG of 400 × 208."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sam_pipeline.report.counting.distributions import Distribution
from sam_pipeline.report.counting.threshold_curves import ThresholdCurve
from sam_pipeline.report.page.number_text import short_count

WIDTH, HEIGHT = 400, 208
LEFT, RIGHT, TOP, BOTTOM = 46, 392, 26, 180
"""Edges of the frame that holds bars and lines; labels are around it."""


@dataclass(frozen=True)
class Tick:
    """A label of an axis."""

    at: float
    text: str


@dataclass(frozen=True)
class Bar:
    """A bin of a histogram."""

    x: float
    y: float
    width: float
    height: float
    range: str
    """What the bin holds, for people."""
    count: int


@dataclass(frozen=True)
class Histogram:
    """A chart of a distribution."""

    key: str
    """Name of this chart alone, for ids in the page."""
    title: str
    unit: str
    """What is counted: images or masks."""
    note: str
    summary: str
    """Quantiles, for people."""
    bars: tuple[Bar, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    median_at: float | None


@dataclass(frozen=True)
class Curve:
    """A chart of the masks that thresholds keep."""

    key: str
    title: str
    masks: str
    """The line of masks, as the attribute points of a polyline."""
    images: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    first: float
    """The first threshold of the chart; the last one is 1."""
    rows: tuple[tuple[float, int, float, int, float], ...]
    """Threshold, masks, their share, images, their share."""
    flag: str


def histogram(
    key: str,
    title: str,
    unit: str,
    values: Distribution,
    number: Callable[[float], str],
    *,
    is_whole: bool = False,
    is_log: bool = False,
    note: str = "",
) -> Histogram | None:
    """Lay out a histogram; None where there are no values.

    Args:
        key: of this chart alone.
        title: of the chart.
        unit: what is counted.
        values: what to draw.
        number: writes a value for people.
        is_whole: values are integers, so that a bin is named by its first and last one.
        is_log: the axis is logarithmic.
        note: what readers must know.
    """
    if not values.num or values.median is None:
        return None
    # A bar of a single integer goes from it to the next; it stands for what is in its middle.
    is_single = is_whole and values.edges[1] - values.edges[0] == 1
    edges = [math.log10(edge) for edge in values.edges] if is_log else list(values.edges)

    def at(value: float) -> float:
        return LEFT + (RIGHT - LEFT) * (value - edges[0]) / (edges[-1] - edges[0])

    y_ticks = _counts_axis(max(values.counts))
    top = y_ticks[-1]
    bars = []
    for number_of_bin, count in enumerate(values.counts):
        low, high = values.edges[number_of_bin : number_of_bin + 2]
        x, x_end = at(edges[number_of_bin]), at(edges[number_of_bin + 1])
        height = (BOTTOM - TOP) * count / top
        gap = min(1.0, (x_end - x) / 8)
        words = _bin_words(low, high, values, number, is_whole=is_whole)
        bars.append(
            Bar(round(x, 1), round(BOTTOM - height, 1), round(x_end - x - gap, 1), round(height, 1), words, count)
        )
    median = max(values.median, values.edges[0])
    median = math.log10(median) if is_log else median
    return Histogram(
        key,
        title,
        unit,
        note,
        _summary(values, number, (lambda mean: f"{mean:,.1f}") if is_whole else number),
        tuple(bars),
        tuple(_value_axis(edges, at, number, is_log=is_log, middle=0.5 * is_single)),
        tuple(Tick(BOTTOM - (BOTTOM - TOP) * count / top, short_count(count)) for count in y_ticks),
        round(at(min(median + 0.5 * is_single, edges[-1])), 1),
    )


def curve(data: ThresholdCurve, num_images: int, least: float | None) -> Curve | None:
    """Lay out a curve, from the last threshold that keeps all masks; None where there are no masks.

    Args:
        data: what to draw.
        num_images: those with a mask, of which the share of images is.
        least: the threshold of the run, where the curve begins at the earliest: a selection cannot be looser.
    """
    num_masks = data.num_masks[0]
    if not num_masks:
        return None
    begin = max(0, sum(count == num_masks for count in data.num_masks) - 1)
    begin = min(begin - begin % 10, len(data.thresholds) - 11)  # a multiple of 0.05
    if least is not None:
        begin = max(begin, min(bisect_left(data.thresholds, least), len(data.thresholds) - 2))
    first = data.thresholds[begin]
    rows = tuple(
        (threshold, masks, masks / num_masks, images, images / num_images)
        for threshold, masks, images in zip(
            data.thresholds[begin:], data.num_masks[begin:], data.num_images[begin:], strict=True
        )
    )

    def point(threshold: float, share: float) -> str:
        return f"{_threshold_at(threshold, first):.1f},{BOTTOM - (BOTTOM - TOP) * share:.1f}"

    step = _nice_step(1 - first, 5)
    ticks = [round(first + number * step, 3) for number in range(round((1 - first) / step) + 1)]
    return Curve(
        data.setting.removesuffix("_thresh").replace("_", "-"),
        {"pred_iou_thresh": "Predicted IoU above", "stability_score_thresh": "Stability score at least"}[data.setting],
        " ".join(point(threshold, share) for threshold, _, share, _, _ in rows),
        " ".join(point(threshold, share) for threshold, _, _, _, share in rows),
        tuple(Tick(round(_threshold_at(value, first), 1), f"{value:g}") for value in ticks),
        tuple(Tick(BOTTOM - (BOTTOM - TOP) * share / 100, f"{share} %") for share in (0, 50, 100)),
        first,
        rows,
        "--" + data.setting.replace("_", "-"),
    )


def _threshold_at(threshold: float, first: float) -> float:
    return LEFT + (RIGHT - LEFT) * (threshold - first) / (1 - first)


def _bin_words(low: float, high: float, values: Distribution, number: Callable[[float], str], *, is_whole: bool) -> str:
    """What a bin holds. The first and the last one hold what is beyond them too."""
    assert values.min is not None
    assert values.max is not None
    if low == values.edges[0] and values.min < low:
        return f"less than {number(high)}"
    if high == values.edges[-1] and values.max > high:
        return f"{number(low)} and more"
    if not is_whole:
        return f"{number(low)} to {number(high)}"
    return number(low) if high - low == 1 else f"{number(low)} to {number(high - 1)}"


def _summary(values: Distribution, number: Callable[[float], str], mean: Callable[[float], str]) -> str:
    assert values.mean is not None
    assert values.median is not None
    assert values.p05 is not None
    assert values.p95 is not None
    return (
        f"median {number(values.median)}, mean {mean(values.mean)}, "
        f"nine tenths from {number(values.p05)} to {number(values.p95)}"
    )


def _counts_axis(most: int) -> list[float]:
    step = max(1.0, _nice_step(most, 3))
    return [step * number for number in range(math.ceil(most / step) + 1)]


def _value_axis(
    edges: Sequence[float],
    at: Callable[[float], float],
    number: Callable[[float], str],
    *,
    is_log: bool,
    middle: float,
) -> list[Tick]:
    low, high = edges[0], edges[-1]
    if is_log:
        return [
            Tick(round(at(power), 1), short_count(10**power)) for power in range(math.ceil(low), math.floor(high) + 1)
        ]
    step = max(_nice_step(high - low, 5), edges[1] - edges[0])
    first = math.ceil(low / step - 1e-6)
    return [
        Tick(round(at(value + middle), 1), number(value))
        for value in (round(step * count, 6) for count in range(first, math.floor(high / step + 1e-6) + 1))
        if value + middle <= high
    ]


def _nice_step(length: float, most_steps: int) -> float:
    """The smallest of 1, 2, 5, 10, … times a power of ten of which a length has at most so many."""
    raw = length / most_steps
    power: float = 10.0 ** math.floor(math.log10(raw))
    return power * next(each for each in (1, 2, 5, 10) if each * power >= raw * (1 - 1e-9))
