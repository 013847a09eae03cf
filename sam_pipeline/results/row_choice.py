"""The rows and columns that a caller asks for, checked before anything is read."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from sam_pipeline.errors import ConfigError
from sam_pipeline.storage.tables.reading.result_reading import check_condition
from sam_pipeline.storage.tables.schema import STATUSES


def checked_choice(
    schema: pa.Schema, status: str | None, where: pc.Expression | None, columns: Sequence[str] | None
) -> tuple[list[str], pc.Expression | None]:
    """Columns and condition, as Results.tables takes them.

    Args:
        schema: of the results.
        status: only rows that have it; None takes all.
        where: a condition on columns.
        columns: names of those wanted; None takes all.

    Raises:
        ConfigError: a status or column that there is not, or a condition that does not fit the columns.
    """
    if isinstance(columns, str):
        raise ConfigError(f"columns must be a list of strings, such as [{columns!r}], got {columns!r}")
    if where is not None and not isinstance(where, pc.Expression):
        raise ConfigError(f"where must be a condition such as pyarrow.compute.field('num_masks') > 10, got {where!r}")
    names = list(schema.names if columns is None else columns)
    if unknown := [name for name in names if name not in schema.names]:
        raise ConfigError(f"no such column: {', '.join(unknown)}; there are {', '.join(schema.names)}")
    if status is not None:
        if status not in STATUSES:
            raise ConfigError(f"status must be one of {', '.join(STATUSES)}; got {status!r}")
        has_status = pc.field("status") == status
        where = has_status if where is None else has_status & where
    if where is not None:
        check_condition(where, schema)
    return names, where
