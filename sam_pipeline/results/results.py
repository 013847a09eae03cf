"""The results of a run as a selection shows them: a snapshot for reading, a row group at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sam_pipeline.errors import OutputError
from sam_pipeline.results.row_groups import Reading, Request, request_for
from sam_pipeline.results.selection.mask_selection import MaskSelection
from sam_pipeline.storage.layout import table_uri
from sam_pipeline.storage.objects.filesystem import StorageOptions
from sam_pipeline.storage.objects.retrying import retried
from sam_pipeline.storage.tables.delta import committed_files, output_errors, table_metadata
from sam_pipeline.storage.tables.delta_place import Table
from sam_pipeline.storage.tables.plan import open_planned_results
from sam_pipeline.storage.tables.reading.result_reading import iterate_row_groups, results_schema


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
        plan, table = open_planned_results(output, storage_options)
        if table is None:
            raise OutputError(f"no results in {output}")
        results = cls(output, plan.num_images, table, storage_options)
        _ = results.settings  # raises for a table of another program
        return results if selection is None else results.select(selection)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (self.output, self.num_images, self.storage_options, self.selection, self.table.version())

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

    def at_version(self, version: int) -> Results:
        """The same results at another version of the table.

        Raises:
            OutputError: that version is no longer there.
            StorageUnavailableError: storage did not answer.
        """
        table = _table_at(self.table.uri, self.storage_options, version)
        return Results(self.output, self.num_images, table, self.storage_options, self.selection)

    def tables(
        self,
        columns: Sequence[str],
        where: pc.Expression | None = None,
        *,
        mask_fields: Sequence[str] | None = None,
        first_id: int = 0,
        last_id: int | None = None,
        left_out: NDArray[np.bool_] | None = None,
        reading: Reading | None = None,
    ) -> Iterator[pa.Table]:
        """Some columns of the rows that meet a condition, in the order of files and rows; a table for each row group.

        A row group that another program has made very large gives several tables.

        Masks, which are nearly all of a row, are read only where a row of the group meets the condition and has a mask
        that is wanted; of other masks, the fields that the selection looks at.

        Args:
            columns: some of schema, in the order wanted.
            where: a condition on columns, as the selection shows them; None takes all rows.
            mask_fields: fields of the column masks, which then has these alone, in the order in which they are stored;
                the others are not read. None takes all.
            first_id: no images before this one.
            last_id: no images after this one.
            left_out: (planned images,) bool, images of which no row is wanted; their masks are not read either.
            reading: counts what is read.

        Raises:
            ConfigError: the condition does not fit the columns.
            OutputError: a file is missing or damaged.
            StorageUnavailableError: storage did not answer.
        """
        if first_id > 0:
            where = _and(where, pc.field("image_id") >= first_id)
        if last_id is not None:
            where = _and(where, pc.field("image_id") <= last_id)
        request = request_for(self.schema, columns, where, self.selection, mask_fields=mask_fields, left_out=left_out)
        # A generator of its own, so that what is refused is refused here and not with the first table.
        return self._tables(request, first_id, last_id, Reading() if reading is None else reading)

    def _tables(self, request: Request, first_id: int, last_id: int | None, reading: Reading) -> Iterator[pa.Table]:
        groups = iterate_row_groups(
            self.table, self.storage_options, first_id=first_id, last_id=last_id, on_read=reading.add_bytes
        )
        for group in groups:
            for piece in group.pieces():
                rows = request.read(piece, reading)
                if rows.num_rows:
                    yield rows


def _reopened(
    output: str, num_images: int, storage_options: StorageOptions, selection: MaskSelection, version: int
) -> Results:
    """Results that were pickled, at the version that they had."""
    table = _table_at(table_uri(output, "masks"), storage_options, version)
    return Results(output, num_images, table, storage_options, selection)


def _table_at(uri: str, storage_options: StorageOptions, version: int) -> Table:
    with output_errors(uri):
        table: Table = retried(lambda: Table(uri, storage_options, version), what=f"open {uri}")
        return table


def _and(where: pc.Expression | None, condition: pc.Expression) -> pc.Expression:
    return condition if where is None else where & condition
