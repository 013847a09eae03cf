"""What commands print: summaries on the standard output, all else on standard error."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sam_pipeline.process import events
from sam_pipeline.safety.terminal import PlainConsole

STDOUT = PlainConsole()
STDERR = PlainConsole(stderr=True)


def statuses_text(num_by_status: Mapping[str, int]) -> str:
    """Counts of images, the most frequent status first."""
    return ", ".join(f"{count} {name}" for name, count in sorted(num_by_status.items(), key=lambda item: -item[1]))


def prompt_rows(num_planned: Mapping[str, int], num_unusable: Mapping[str, int]) -> dict[str, object]:
    """Rows of a summary: how many prompts and regions a run has, and how many of them are in prompt_errors."""
    return {
        f"{role}s": f"{count} ({num_unusable.get(role, 0)} unusable)" for role, count in num_planned.items() if count
    }


def filter_rows(filters: Sequence[Mapping[str, Any]]) -> dict[str, object]:
    """Rows of a summary: what a run was filtered from and by what, the oldest filter first.

    Args:
        filters: as config.fingerprint.filters_of gives them.
    """
    return {
        "filtered from" if len(filters) == 1 else f"filter {number}": (
            f"{each['source']}, version {each['version']}, by {_settings_text(each['selection'])}"
        )
        for number, each in enumerate(filters, 1)
    }


def _settings_text(settings: Mapping[str, Any]) -> str:
    texts = (
        f"{name}={','.join(map(str, value)) if isinstance(value, list | tuple) else value}"
        for name, value in settings.items()
    )
    return " ".join(texts) or "no setting"


def print_table(rows: Mapping[str, object], figures: Mapping[str, object] | None = None) -> None:
    """Print names and values, one pair a line; as one JSON object where standard error is JSON.

    Args:
        rows: names and values.
        figures: what the JSON object has in their place.
    """
    if events.are_used():
        print_json({name.replace(" ", "_"): value for name, value in (figures or rows).items()})
        return
    for line in table_lines(rows):
        STDOUT.print_line(line)


def print_problem(line: str) -> None:
    """Print what is wrong with a run; an event of level error where standard error is JSON."""
    STDERR.print_line(f"error: {line}" if events.are_used() else line)


def print_json(values: Mapping[str, object]) -> None:
    """Print a JSON object on one line; what JSON does not know becomes text."""
    STDOUT.print_line(json.dumps(values, default=str))


def table_lines(rows: Mapping[str, object]) -> list[str]:
    """Names and values, one pair a line."""
    width = max(len(name) for name in rows)
    return [f"{name:<{width}}  {value}" for name, value in rows.items()]


def column_lines(rows: Sequence[Sequence[str]], numbers_from: int | None = None) -> Iterator[str]:
    """Rows as aligned lines; the columns from a number on are right-aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            f"{cell:>{width}}" if numbers_from is not None and index >= numbers_from else f"{cell:<{width}}"
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()
