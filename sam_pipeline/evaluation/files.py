"""Figures as the content of files."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

from sam_pipeline.evaluation.figures import Evaluation
from sam_pipeline.safety.clean_text import printable


def json_text(evaluation: Evaluation) -> str:
    """All figures and the worst images, as JSON."""
    return json.dumps(evaluation.by_name(), indent=2, ensure_ascii=True, allow_nan=False) + "\n"


def csv_text(evaluation: Evaluation) -> str:
    """One line for each image, with the names of its figures in the first."""
    rows = [each.by_name() for each in evaluation.images]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    return text.getvalue()


def _cell(value: Any) -> Any:
    """A value of the table; text begins with nothing that a spreadsheet takes for a formula."""
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if text[:1] in "=+-@" else text
