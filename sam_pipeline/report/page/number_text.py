"""Numbers as people read them in the page."""

from __future__ import annotations


def percent(share: float) -> str:
    """A share with one digit behind the point, and a space that no line is broken at."""
    return f"{100 * share:.1f}\N{NO-BREAK SPACE}%"


def counted(number: int, one: str, many: str | None = None) -> str:
    """A number of things: 1 image, 2,000 images."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def short_count(count: float) -> str:
    """A number for the axis of a chart: 1.5k, 20M."""
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= unit:
            return f"{count / unit:.3g}{name}"
    return f"{count:g}"
