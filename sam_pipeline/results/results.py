"""The results of a run as a selection shows them: a snapshot for reading, a row group at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sam_pipeline.errors import OutputError
from sam_pipeline.results.choosing import (
    choose_images,
    choose_masks,
    count_kept,
    fields_looked_at,
    keep_masks,
    list_array,
    row_numbers,
)
from sam_pipeline.results.mask_selection import MaskSelection
from sam_pipeline.storage.layout import table_uri
from sam_pipeline.storage.objects.filesystem import StorageOptions
from sam_pipeline.storage.tables.delta import committed_files, open_table, table_metadata
from sam_pipeline.storage.tables.delta_place import Table
from sam_pipeline.storage.tables.plan import read_plan
from sam_pipeline.storage.tables.result_reading import (
    RowGroup,
    check_condition,
    deciding_columns,
    iterate_row_groups,
    masks_type,
    results_schema,
)


@dataclass
class Reading:
    """What was read so far, as a reader that is asked to counts it."""

    num_bytes: int = 0
    """Of the column chunks that were read, as they are stored."""


@dataclass(frozen=True, eq=False)
class Results:
    """The committed results of a run, finished or not, at the version at which they were opened.

    With a selection every image has only the masks that are wanted, and num_masks counts these.
    """

    output: str
    """Folder of the run: an absolute path or a URI."""
    num_images: int
    """Planned images."""
    table: Table
    storage_options: StorageOptions
    selection: MaskSelection = field(default_factory=MaskSelection)

    @classmethod
    def open(cls, output: str, storage_options: StorageOptions, selection: MaskSelection | None = None) -> Results:
        """Open the results of a run, finished or not; nothing is written, and no run is disturbed.

        Args:
            output: folder of the run: an absolute path or a URI.
            storage_options: of fsspec.
            selection: which masks are wanted; all by default.

        Raises:
            ConfigError: the selection is looser than the run.
            OutputError: there is no plan or there are no results; it cannot be read.
            StorageUnavailableError: storage did not answer.
        """
        # Before the plan: another start may extend the plan and add rows to the results.
        table = open_table(table_uri(output, "masks"), storage_options)
        plan = read_plan(output, storage_options)
        if plan is None:
            raise OutputError(f"no plan in {output}")
        if table is None:
            raise OutputError(f"no results in {output}")
        results = cls(output, plan.num_images, table, storage_options)
        _ = results.settings  # raises for a table of another program
        return results if selection is None else results.select(selection)

    @property
    def settings(self) -> Mapping[str, Any]:
        """The run's fingerprint: what decided its masks, by name."""
        settings: dict[str, Any] = json.loads(table_metadata(self.table)["fingerprint"])
        return settings

    @property
    def schema(self) -> pa.Schema:
        """The columns."""
        return results_schema(self.table)

    @property
    def num_done(self) -> int:
        """Images that have a row, whatever its status and the selection. Reads no file."""
        return sum(file.num_rows for file in committed_files(self.table))

    def select(self, selection: MaskSelection) -> Results:
        """The same results as another selection shows them.

        Raises:
            ConfigError: the selection is looser than the run.
        """
        selection.check_against(self.settings)
        return Results(self.output, self.num_images, self.table, self.storage_options, selection)

    def tables(
        self,
        columns: Sequence[str],
        where: pc.Expression | None = None,
        *,
        mask_fields: Sequence[str] | None = None,
        first_id: int = 0,
        last_id: int | None = None,
        reading: Reading | None = None,
    ) -> Iterator[pa.Table]:
        """Some columns of the rows that meet a condition, in the order of files and rows; a table for each row group.

        Masks, which are nearly all of a row, are read only where a row of the group meets the condition and has a mask
        that is wanted; of other masks, the fields that the selection looks at.

        Args:
            columns: some of schema, in the order wanted.
            where: a condition on columns, as the selection shows them; None takes all rows.
            mask_fields: fields of the column masks, which then has these alone, in the order in which they are stored;
                the others are not read. None takes all.
            first_id: no images before this one.
            last_id: no images after this one.
            reading: counts what is read.

        Raises:
            ConfigError: the condition does not fit the columns.
            OutputError: a file is missing or damaged.
            StorageUnavailableError: storage did not answer.
        """
        schema = self.schema
        if mask_fields is not None:
            index = schema.get_field_index("masks")
            schema = schema.set(index, pa.field("masks", masks_type(schema, mask_fields), nullable=False))
        if where is not None:
            check_condition(where, schema)
        if first_id > 0:
            where = _and(where, pc.field("image_id") >= first_id)
        if last_id is not None:
            where = _and(where, pc.field("image_id") <= last_id)
        # A generator of its own, so that what is refused is refused here and not with the first table.
        read = partial(self._chosen, columns=columns, where=where, mask_fields=mask_fields, schema=schema)
        return self._tables(read, first_id, last_id, Reading() if reading is None else reading)

    def _tables(
        self, read: Callable[[RowGroup], pa.Table], first_id: int, last_id: int | None, reading: Reading
    ) -> Iterator[pa.Table]:
        for group in iterate_row_groups(self.table, self.storage_options, first_id=first_id, last_id=last_id):
            rows = read(group)
            reading.num_bytes += group.bytes_read
            if rows.num_rows:
                yield rows

    def _chosen(
        self,
        group: RowGroup,
        *,
        columns: Sequence[str],
        where: pc.Expression | None,
        mask_fields: Sequence[str] | None,
        schema: pa.Schema,
    ) -> pa.Table:
        """The rows of a row group that are wanted, with the masks that are wanted; schema is that of the answer."""
        # The id always: a table without a column has no rows.
        needed = {"image_id", *columns, *([] if where is None else deciding_columns(where, schema))}
        has_masks = "masks" in needed
        chooses = self.selection.chooses_masks and bool({"masks", "num_masks"} & needed)
        if chooses:
            needed |= {"height", "width", "num_masks"}
        if self.selection.include or self.selection.exclude:
            needed |= {"uri"}
        small = [name for name in schema.names if name in needed and name != "masks"]
        speaks_of_masks = where is not None and "masks" in deciding_columns(where, schema)
        rows = group.read(small, fields_looked_at(self.selection) if chooses else None)
        wanted = choose_images(rows["uri"], self.selection) if "uri" in small else np.ones(rows.num_rows, dtype=bool)
        kept = None
        if chooses:
            kept = choose_masks(rows, self.selection)
            masks = list_array(rows["masks"])
            kept &= wanted[row_numbers(masks)]  # those of an image that is left out need not be read
            counts = pa.array(count_kept(masks, kept), pa.int32())
            rows = _with(rows.drop_columns("masks"), "num_masks", counts)
        if where is not None and not speaks_of_masks:
            wanted &= _meets(rows, where)
        if has_masks:
            masks_field = schema.field("masks")
            rows = rows.append_column(masks_field, _masks(group, masks_field.type, mask_fields, wanted, kept))
        if speaks_of_masks and where is not None:
            wanted &= _meets(rows, where)
        return (rows if wanted.all() else rows.filter(pa.array(wanted))).select(columns)


def _masks(
    group: RowGroup,
    kind: pa.DataType,
    fields: Sequence[str] | None,
    wanted: NDArray[np.bool_],
    kept: NDArray[np.bool_] | None,
) -> pa.Array | pa.ChunkedArray:
    """The column masks of a row group, with the masks that are kept; not read where no row needs it."""
    if not wanted.any() or (kept is not None and not kept.any()):
        return pa.array([[]] * group.num_rows, kind)
    masks = (group.read(["masks"]) if fields is None else group.read([], fields))["masks"]
    return masks if kept is None or kept.all() else keep_masks(masks, kept)


def _and(where: pc.Expression | None, condition: pc.Expression) -> pc.Expression:
    return condition if where is None else where & condition


def _with(rows: pa.Table, name: str, column: pa.Array) -> pa.Table:
    index = rows.schema.get_field_index(name)
    return rows.set_column(index, rows.schema.field(index), column)


def _meets(rows: pa.Table, where: pc.Expression) -> NDArray[np.bool_]:
    """Which rows meet a condition, (rows,) bool."""
    numbered = rows.append_column("__row", pa.array(np.arange(rows.num_rows)))
    meets = np.zeros(rows.num_rows, dtype=bool)
    meets[numbered.filter(where)["__row"].to_numpy()] = True
    return meets
