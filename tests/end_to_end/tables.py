"""Reading a run's tables as any other program would: with deltalake alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from deltalake import DeltaTable
from deltalake.exceptions import TableNotFoundError

Row = dict[str, Any]


def read_rows(output: str, options: Mapping[str, str] | None = None) -> list[Row]:
    """All committed rows, by image_id."""
    return DeltaTable(f"{output}/masks", storage_options=options).to_pyarrow_table().sort_by("image_id").to_pylist()


def num_committed(output: str, options: Mapping[str, str] | None = None) -> int:
    """How many rows are committed; 0 before there is a table."""
    return _count(f"{output}/masks", options)


def num_planned(output: str, options: Mapping[str, str] | None = None) -> int:
    """How many images the plan holds; 0 before there is one."""
    return _count(f"{output}/images", options)


def num_data_files(output: str, options: Mapping[str, str] | None = None) -> int:
    """How many Parquet files the newest version of the results has."""
    return len(DeltaTable(f"{output}/masks", storage_options=options).file_uris())


def comparable(rows: Sequence[Row]) -> list[Row]:
    """Rows with the file's name for its URI: to compare runs over copies of a folder in different places."""
    return [{**row, "uri": row["uri"].rsplit("/", 1)[-1]} for row in rows]


def _count(uri: str, options: Mapping[str, str] | None) -> int:
    try:
        return DeltaTable(uri, storage_options=options).count()
    except TableNotFoundError:
        return 0
