"""Reading a row group of a run's results as a selection shows it: no column that can be done without is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sam_pipeline.errors import ConfigError
from sam_pipeline.results.selection.choosing import (
    choose_images,
    choose_masks,
    count_kept,
    fields_looked_at,
    keep_masks,
    list_array,
    row_numbers,
    with_fields,
)
from sam_pipeline.results.selection.mask_selection import MaskSelection
from sam_pipeline.storage.tables.reading.result_reading import RowGroup, check_condition, deciding_columns, masks_type


@dataclass
class Reading:
    """Counts what readers have read so far."""

    num_bytes: int = 0
    """Bytes of files, as they are stored."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Masks of images that are wanted which the selection drops, by the first setting that drops them."""

    def add_bytes(self, num_bytes: int) -> None:
        """Count what was read."""
        self.num_bytes += num_bytes


@dataclass(frozen=True, eq=False)
class Request:
    """What is wanted of each row group."""

    schema: pa.Schema
    """Schema of the results, with the fields of masks that are wanted."""
    columns: Sequence[str]
    where: pc.Expression | None
    """A condition on columns of the schema, as the selection shows them."""
    selection: MaskSelection
    left_out: NDArray[np.bool_] | None = None
    """(planned images,) those of which no row is wanted."""

    def read(self, group: RowGroup, reading: Reading) -> pa.Table:
        """The rows of a row group that are wanted, with the masks that are wanted."""
        return self._read(group, reading.dropped)

    def _read(self, group: RowGroup, dropped: Counter[str]) -> pa.Table:
        rows = group.read(self._small_columns)
        wanted = self._wanted_images(rows)
        if self.where is not None and not self._deciding & {"masks", *self._chosen_columns}:
            wanted &= _meets(rows, self.where)
        if not wanted.any():
            return self.schema.empty_table().select(self.columns)
        looked_at, kept = None, None
        if self._chooses:
            looked_at = list_array(group.read([], fields_looked_at(self.selection))["masks"])
            kept = choose_masks(rows.append_column("masks", looked_at), self.selection, wanted=wanted, dropped=dropped)
            rows = _with(rows, "num_masks", pa.array(count_kept(looked_at, kept), pa.int32()))
            if self.where is not None and "masks" not in self._deciding:
                wanted &= _meets(rows, self.where)
                kept &= wanted[row_numbers(looked_at)]
        if "masks" in self._needed:
            rows = rows.append_column(self.schema.field("masks"), self._masks(group, looked_at, wanted, kept))
        if self.where is not None and "masks" in self._deciding:
            wanted &= _meets(rows, self.where)
        return (rows if wanted.all() else rows.filter(pa.array(wanted))).select(self.columns)

    def _wanted_images(self, rows: pa.Table) -> NDArray[np.bool_]:
        wanted = np.ones(rows.num_rows, dtype=bool)
        if self.selection.include or self.selection.exclude:
            wanted &= choose_images(rows["uri"], self.selection)
        if self.left_out is not None:
            image_ids = rows["image_id"].to_numpy()
            is_planned = (image_ids >= 0) & (image_ids < len(self.left_out))
            wanted[is_planned] &= ~self.left_out[image_ids[is_planned]]
        return wanted

    def _masks(
        self,
        group: RowGroup,
        looked_at: pa.ListArray | None,
        wanted: NDArray[np.bool_],
        kept: NDArray[np.bool_] | None,
    ) -> pa.Array | pa.ChunkedArray:
        """The column masks, with the masks that are kept; not read where no row needs it.

        Args:
            group: to read from.
            looked_at: what was read to choose.
            wanted: (rows,).
            kept: (N,) masks of all rows; None keeps all.
        """
        kind = self.schema.field("masks").type
        if not wanted.any() or (kept is not None and not kept.any()):
            return pa.array([[]] * group.num_rows, kind)
        fields = [each.name for each in kind.value_type]
        if looked_at is None or kept is None:
            return group.read([], fields)["masks"]
        parts = [looked_at]
        has = {each.name for each in looked_at.type.value_type}
        if unread := [name for name in fields if name not in has]:
            parts.append(list_array(group.read([], unread)["masks"]))
        return with_fields(kind, *(part if kept.all() else keep_masks(part, kept) for part in parts))

    @cached_property
    def _deciding(self) -> frozenset[str]:
        """Columns that the condition depends on, or may depend on."""
        if self.where is None:
            return frozenset()
        without_counts = pa.schema([each for each in self.schema if each.name not in ("masks", "num_masks")])
        try:
            check_condition(self.where, without_counts)
        except ConfigError:
            return frozenset(deciding_columns(self.where, self.schema))
        return frozenset(without_counts.names)

    @cached_property
    def _needed(self) -> frozenset[str]:
        # The id always: a table without a column has no rows.
        return self._deciding | {"image_id", *self.columns}

    @cached_property
    def _chooses(self) -> bool:
        """Whether masks must be chosen: the selection chooses, and the caller asks for masks or their number."""
        return self.selection.chooses_masks and bool({"masks", "num_masks"} & self._needed)

    @property
    def _chosen_columns(self) -> Sequence[str]:
        """Columns with other values than the stored ones."""
        return ["num_masks"] if self._chooses else []

    @cached_property
    def _small_columns(self) -> list[str]:
        names = set(self._needed) - {"masks"}
        if self._chooses:
            names |= {"height", "width", "num_masks"}
        if self.selection.include or self.selection.exclude:
            names.add("uri")
        return [name for name in self.schema.names if name in names]


def request_for(
    schema: pa.Schema,
    columns: Sequence[str],
    where: pc.Expression | None,
    selection: MaskSelection,
    *,
    mask_fields: Sequence[str] | None = None,
    left_out: NDArray[np.bool_] | None = None,
) -> Request:
    """What Results.tables asks of each row group; see there for arguments.

    Raises:
        ConfigError: the condition does not fit the columns.
    """
    if mask_fields is not None:
        index = schema.get_field_index("masks")
        schema = schema.set(index, pa.field("masks", masks_type(schema, mask_fields), nullable=False))
    if where is not None:
        check_condition(where, schema)
    return Request(schema, columns, where, selection, left_out)


def _with(rows: pa.Table, name: str, column: pa.Array) -> pa.Table:
    index = rows.schema.get_field_index(name)
    return rows.set_column(index, rows.schema.field(index), column)


def _meets(rows: pa.Table, where: pc.Expression) -> NDArray[np.bool_]:
    """Which rows meet a condition, (rows,) bool."""
    numbered = rows.append_column("__row", pa.array(np.arange(rows.num_rows)))
    meets = np.zeros(rows.num_rows, dtype=bool)
    meets[numbered.filter(where)["__row"].to_numpy()] = True
    return meets
