"""Numbers as files write them: 7, 7.0, or "7"."""

from __future__ import annotations

import math
import re
from decimal import Decimal
from typing import TypeGuard

ID_LIMIT = 2**63
"""Ids are below this: it is the first whole number that is too large for int64."""

_WHOLE = re.compile(r"[+-]?[0-9]{1,20}")
_REAL = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


def is_real(value: object) -> TypeGuard[float]:
    """Whether it is a number of JSON or Arrow that a float can hold; infinity and NaN count, true and false do not."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        float(value)
    except OverflowError:
        return False
    return True


def as_number(value: object) -> object:
    """The number that a text or a decimal of Parquet holds; anything else as it is."""
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if not isinstance(value, str):
        return value
    text = value.strip()
    if _WHOLE.fullmatch(text):
        return int(text)
    return float(text) if _REAL.fullmatch(text) else value


def whole_number(value: object) -> int | None:
    """A number without fraction that fits int64, also if it is written as a float; None for anything else."""
    if not is_real(value) or not math.isfinite(value) or value != int(value):
        return None
    return int(value) if -ID_LIMIT <= value < ID_LIMIT else None


def file_id(value: object) -> int | str | None:
    """An id of an image as COCO files have it: text, or a whole number of any size; None for anything else."""
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    return value if isinstance(value, (int, str)) and not isinstance(value, bool) else None
