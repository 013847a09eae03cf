"""Which images of an input are meant: patterns, order, URIs that come twice, a first part or a random one."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from fsspec.utils import glob_translate

from sam_pipeline.config import SelectionConfig
from sam_pipeline.errors import InputError
from sam_pipeline.safety.clean_text import one_line

logger = logging.getLogger(__name__)

# Rows taken at once: their strings stay far below the 2 GiB that one array of them can hold.
_ROWS_AT_ONCE = 1_000_000

_LARGE = pa.large_string()

_Rows = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Selection:
    """What is left of the images of an input, and how many are not."""

    images: pa.Table
    """In the order of their URIs, each once."""
    num_twice: int
    """Dropped because another image that was not excluded has the same URI."""
    num_excluded: int
    """Dropped by include and exclude."""


def select(images: pa.Table, selection: SelectionConfig) -> Selection:
    """Choose among images, and put them in the order of their URIs.

    A pattern is as in the input: `*` stands for any characters of one name, `?` for one, `[abc]` and `[a-c]` for one of
    these, `[!abc]` for one of all others, `**` for any folders. It is to match the URI or the end of it, from a slash
    on: `*.png`, `train/*.jpg`, `train/**`. The `#` behind a container is as good as a slash. Upper and lower case are
    different. Patterns that match no image are named in the log.

    Args:
        images: of SOURCE_SCHEMA, in any order.
        selection: which of them. A sample is the same for the same URIs, number and seed.

    Returns:
        The chosen images, of which there may be none. Of those that have the same URI the first is kept.

    Raises:
        InputError: a pattern that cannot be understood, such as `[z-a]`.
    """
    is_chosen = pa.chunked_array([pa.repeat(pa.scalar(True), images.num_rows)])
    if selection.include:
        is_chosen = _matches(images, selection.include, "include")
    if selection.exclude:
        is_chosen = pc.and_not(is_chosen, _matches(images, selection.exclude, "exclude"))
    chosen = images.filter(is_chosen) if selection.include or selection.exclude else images
    order = _order(chosen["uri"])
    rows = order[_is_first(take_rows(chosen.select(["uri"]), order)["uri"])]
    num_twice = chosen.num_rows - len(rows)
    rows = rows[: selection.limit]
    if selection.sample is not None and selection.sample < len(rows):
        rng = np.random.default_rng(selection.seed)
        drawn = rng.choice(len(rows), size=selection.sample, replace=False, shuffle=False)
        rows = rows[np.sort(drawn)]
    return Selection(take_rows(chosen, rows), num_twice, images.num_rows - chosen.num_rows)


def take_rows(table: pa.Table, rows: _Rows) -> pa.Table:
    """Rows by their numbers; unlike Table.take also of a table whose strings are more than 2 GiB."""
    if len(rows) == table.num_rows and (np.diff(rows) == 1).all():
        return table
    # What is null everywhere, as most columns of most inputs are, need not be gathered.
    names = [name for name in table.column_names if table[name].null_count < table.num_rows]
    large = pa.schema([pa.field(name, _enlarged(table.schema.field(name).type)) for name in names])
    given = pa.schema([table.schema.field(name) for name in names])
    whole = table.select(names).cast(large).combine_chunks()
    parts = []
    for first in range(0, len(rows), _ROWS_AT_ONCE):
        some = rows[first : first + _ROWS_AT_ONCE]
        gathered = whole.take(pa.array(some)).cast(given)
        columns = [
            gathered[field.name] if field.name in names else pa.nulls(len(some), field.type) for field in table.schema
        ]
        parts.append(pa.table(columns, schema=table.schema))
    return pa.concat_tables(parts) if parts else table.slice(0, 0)


def _enlarged(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(field.name, _enlarged(field.type), field.nullable) for field in kind])
    return _LARGE if pa.types.is_string(kind) else kind


def _order(uris: pa.ChunkedArray) -> _Rows:
    """The numbers of the rows in the order of their URIs."""
    if pc.all(pc.less_equal(uris.slice(0, max(0, len(uris) - 1)), uris.slice(1))).as_py():
        return np.arange(len(uris), dtype=np.uint64)
    order: _Rows = pc.sort_indices(uris).to_numpy()
    return order


def _is_first(sorted_uris: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    """Which of sorted URIs differ from the one before."""
    is_first = np.ones(len(sorted_uris), dtype=bool)
    if len(sorted_uris) > 1:
        is_first[1:] = pc.not_equal(sorted_uris.slice(1), sorted_uris.slice(0, len(sorted_uris) - 1)).to_numpy()
    return is_first


def _matches(images: pa.Table, patterns: Sequence[str], setting: str) -> pa.ChunkedArray:
    """Which images match at least one pattern; the log names patterns that match none."""
    uris = images["uri"]
    in_container = images["location"].is_valid()
    # An object's own name may hold a #, which then divides nothing.
    has_members, has_objects = pc.any(in_container).as_py(), not pc.all(in_container).as_py()
    paths = pc.replace_substring(uris, "#", "/") if has_members else uris
    nothing = pa.scalar(False)
    found = pa.chunked_array([pa.repeat(pa.scalar(False), len(uris))])
    for pattern in patterns:
        of_members = match_pattern(paths, pattern.replace("#", "/")) if has_members else nothing
        of_objects = match_pattern(uris, pattern) if has_objects else nothing
        match = pc.if_else(in_container, of_members, of_objects)
        if not pc.any(match).as_py():
            logger.warning("no image matches the pattern %r of %s", pattern, setting)
        found = pc.or_(found, match)
    return found


def match_pattern(uris: pa.ChunkedArray, pattern: str) -> pa.ChunkedArray:
    """Which URIs match a pattern, or have an end that does, from a slash on.

    Raises:
        InputError: the pattern cannot be understood.
    """
    try:
        translated = glob_translate(pattern).removesuffix(r"\Z")
        return pc.match_substring_regex(uris, rf"(?s)\A(?:.*/)?{translated}\z")  # in the language of RE2
    except (pa.ArrowInvalid, ValueError) as error:
        raise InputError(f"cannot understand the pattern {pattern!r}: {one_line(error)}") from error
