"""Results: one line of JSON for each figure or group of figures, written as soon as it is known, and a table of them.

A row has `step` and `name`, then figures; or `error` where there is none. The row named `step` is the last of its step
and says how it ended. Units are in the names: `_ms`, `_gib`, `_per_s`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Figures = Mapping[str, Any]
Row = dict[str, Any]

ROWS = "results.jsonl"
SUMMARY = "summary.md"
STEP = "step"
"""Name of the row that ends a step."""


def append_row(folder: Path, step: str, name: str, figures: Figures) -> None:
    """Add a row to the file and print it."""
    row = {"step": step, "name": name, **{key: _rounded(value) for key, value in figures.items()}}
    line = json.dumps(row)
    with (folder / ROWS).open("a") as file:
        file.write(line + "\n")
    print(line[:400], flush=True)


def read_rows(folder: Path) -> list[Row]:
    """All rows so far."""
    return [json.loads(line) for line in (folder / ROWS).read_text().splitlines()]


def write_summary(folder: Path) -> str:
    """Write the table of all rows, steps first, and return it."""
    rows = read_rows(folder)
    ends = [row for row in rows if row["name"] == STEP]
    lines = ["| step | name | figures |", "|---|---|---|"]
    lines += [_line(row) for row in (*ends, *(row for row in rows if row["name"] != STEP))]
    text = "\n".join(lines) + "\n"
    (folder / SUMMARY).write_text(text)
    return text


def _line(row: Row) -> str:
    short = {key: value for key, value in row.items() if key not in ("step", "name") and not isinstance(value, list)}
    figures = ", ".join(f"{key} {value}" for key, value in short.items()).replace("|", "/")
    return f"| {row['step']} | {row['name']} | {figures} |"


def _rounded(value: Any) -> Any:
    """Four digits of a float."""
    return float(f"{value:.4g}") if isinstance(value, float) else value
