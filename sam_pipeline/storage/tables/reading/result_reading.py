"""Reading some rows and columns of the results, a row group at a time.

Not as a pyarrow dataset: that reads in threads of Arrow, even with use_threads=False, and a process that ends right
after it may abort (see table_reading.file_opener). Here all reading has ended when the caller gets the rows, and
transient errors are retried. Each column of a row group is one request. On S3 that takes half a second for a thousand
images; making Python objects of their masks takes longer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sam_pipeline.errors import ConfigError
from sam_pipeline.safety.clean_text import one_line
from sam_pipeline.storage.objects.filesystem import StorageOptions, join_uri
from sam_pipeline.storage.objects.retrying import retried
from sam_pipeline.storage.tables.delta import (
    committed_files,
    output_errors,
)
from sam_pipeline.storage.tables.delta_place import Table
from sam_pipeline.storage.tables.reading.table_reading import file_opener


def results_schema(table: Table) -> pa.Schema:
    """The columns of a snapshot of the results."""
    return pa.schema(table.schema().to_arrow())


def check_condition(where: pc.Expression, schema: pa.Schema) -> None:
    """Compare a condition with the columns that it speaks of.

    Raises:
        ConfigError: it speaks of others, or of other types.
    """
    try:
        schema.empty_table().filter(where)
    except pa.ArrowException as error:
        raise ConfigError(f"where does not fit the columns: {one_line(error)}") from error


# Before compression; a row group of ours that has been filled has about as many.
_PIECE_BYTES = 64 * 2**20


class RowGroup:
    """A row group of a file of the results, of which columns are read one request each.

    Args:
        parquet: the file, open.
        number: of the row group.
        schema: of the results.
        uri: of the file, for messages.
    """

    def __init__(self, parquet: pq.ParquetFile, number: int, schema: pa.Schema, uri: str) -> None:
        self._parquet, self._schema = parquet, schema
        self.number, self.uri = number, uri
        self.num_rows: int = parquet.metadata.row_group(number).num_rows
        self.num_bytes: int = parquet.metadata.row_group(number).total_byte_size
        """Before compression."""

    def may_hold(self, first_id: int, last_id: int | None) -> bool:
        """Whether it may have images with these ids; last_id None is no limit.

        Reads the ids. Their bounds are in the metadata of the file too, but pyarrow 26 aborts at some damage there.
        """
        if first_id <= 0 and last_id is None:
            return True
        ids = self.read(["image_id"])["image_id"].to_numpy()
        return bool(len(ids) and ids.max() >= first_id and (last_id is None or ids.min() <= last_id))

    def read(self, columns: Sequence[str], mask_fields: Sequence[str] | None = None) -> pa.Table:
        """Read columns, in the types of the results.

        Args:
            columns: names.
            mask_fields: the column masks too, with these fields only; None takes masks as any other column.
        """
        schema = pa.schema([self._schema.field(name) for name in columns])
        if mask_fields is not None:
            schema = schema.append(pa.field("masks", masks_type(self._schema, mask_fields)))
        with output_errors(self.uri):
            leaves = [path for path in self._paths() if _is_wanted(path.split("."), columns, mask_fields)]
            rows = retried(partial(self._read_leaves, leaves), what=f"read {self.uri}", denied_is_final=False)
            # To the table's types: files that delta-rs has rewritten hold strings as views, which pyarrow cannot
            # compare.
            return rows.select(schema.names).cast(schema)

    def pieces(self) -> Iterator[RowGroup]:
        """Its rows in pieces that fit into memory, to be read one after another.

        That is the row group itself, unless another program has written it: delta-rs makes them of a million rows.
        """
        if self.num_bytes <= 2 * _PIECE_BYTES:
            yield self
            return
        num_rows = max(1, self.num_rows * _PIECE_BYTES // self.num_bytes)
        running: _Running = {}
        for number in range(-(-self.num_rows // num_rows)):
            yield _Piece(self, number, num_rows, running)

    def _read_leaves(self, leaves: Sequence[str]) -> pa.Table:
        return self._parquet.read_row_group(self.number, columns=leaves, use_threads=False)

    def _paths(self) -> list[str]:
        """What the file's columns are called, all fields of nested ones."""
        schema = self._parquet.schema
        return [schema.column(index).path for index in range(len(schema))]


_Running = dict[tuple[str, ...], tuple[Iterator[pa.RecordBatch], int]]
"""For each set of columns: the iterator that reads them, and the number of the piece that it yields next."""


class _Piece(RowGroup):
    """Some rows of a row group, which is gone through once for each set of columns, if pieces are read in order.

    Args:
        whole: the row group.
        number: of the piece.
        num_rows: of all pieces but the last.
        running: what has begun to be read, shared by all pieces.
    """

    def __init__(self, whole: RowGroup, number: int, num_rows: int, running: _Running) -> None:
        super().__init__(whole._parquet, whole.number, whole._schema, whole.uri)
        self._number, self._most_rows, self._running = number, num_rows, running
        self.num_rows = min(num_rows, whole.num_rows - number * num_rows)

    def _read_leaves(self, leaves: Sequence[str]) -> pa.Table:
        # Removed while it is used, so that after an error a retry begins anew.
        batches, place = self._running.pop(tuple(leaves), (None, 0))
        if batches is None or place > self._number:
            options = {"row_groups": [self.number], "columns": leaves, "use_threads": False}
            batches, place = self._parquet.iter_batches(self._most_rows, **options), 0
        batch = next(islice(batches, self._number - place, None))
        self._running[tuple(leaves)] = batches, self._number + 1
        return pa.Table.from_batches([batch])


def _is_wanted(path: Sequence[str], columns: Sequence[str], mask_fields: Sequence[str] | None) -> bool:
    if path[0] in columns:
        return True
    # masks, list, element, area: the two in the middle have other names in files of other writers.
    return mask_fields is not None and path[0] == "masks" and len(path) > 3 and path[3] in mask_fields


def masks_type(schema: pa.Schema, fields: Sequence[str]) -> pa.DataType:
    """The type of the column masks with some of its fields, in the order in which they are stored."""
    kind = schema.field("masks").type.value_type
    return pa.list_(pa.struct([field for field in kind if field.name in fields]))


def iterate_row_groups(
    table: Table,
    storage_options: StorageOptions,
    *,
    first_id: int = 0,
    last_id: int | None = None,
    on_read: Callable[[int], object] | None = None,
) -> Iterator[RowGroup]:
    """The row groups of a snapshot, in the order of the files' smallest image_id. Read each before the next.

    Args:
        table: the snapshot.
        storage_options: of fsspec.
        first_id: only files that may have images from this id on.
        last_id: only files that may have images up to this id.
        on_read: see file_opener.

    Raises:
        OutputError: a file is missing or damaged.
        StorageUnavailableError: storage did not answer.
    """
    schema = results_schema(table)
    # A file without rows has no ids.
    files = sorted((file for file in committed_files(table) if file.num_rows), key=lambda file: file.min_image_id)
    files = [
        file for file in files if file.max_image_id >= first_id and (last_id is None or file.min_image_id <= last_id)
    ]
    open_file = file_opener(table, files, storage_options, pre_buffer=False, on_read=on_read)
    for file in files:
        uri = join_uri(table.uri, file.path)
        with output_errors(uri):
            parquet = retried(partial(open_file, file), what=f"read {uri}", denied_is_final=False)
        for number in range(parquet.num_row_groups):
            group = RowGroup(parquet, number, schema, uri)
            if group.may_hold(first_id, last_id):
                yield group


def iterate_results(
    table: Table, columns: Sequence[str], where: pc.Expression | None, storage_options: StorageOptions
) -> Iterator[pa.Table]:
    """Some columns of the rows of a snapshot that meet a condition; a table for each row group.

    Masks, which are nearly all of a row, are read only where a row of the group meets the condition.

    Args:
        table: the snapshot.
        columns: some of results_schema, in the order wanted.
        where: what check_condition accepts; None takes all rows.
        storage_options: of fsspec.

    Raises:
        OutputError: a file is missing or damaged.
        StorageUnavailableError: storage did not answer.
    """
    schema = results_schema(table)
    deciding = [] if where is None else deciding_columns(where, schema)
    for group in iterate_row_groups(table, storage_options):
        if where is None:
            yield group.read(columns)
        elif (matching := group.read(deciding).filter(where)).num_rows:
            is_read = set(columns) <= set(deciding)
            yield (matching if is_read else group.read(schema.names).filter(where)).select(columns)


def read_results(
    table: Table, columns: Sequence[str], where: pc.Expression | None, storage_options: StorageOptions
) -> pa.Table:
    """As iterate_results, in one table."""
    nothing = results_schema(table).empty_table().select(columns)
    return pa.concat_tables([nothing, *iterate_results(table, columns, where, storage_options)])


def deciding_columns(where: pc.Expression, schema: pa.Schema) -> list[str]:
    """Columns that a condition is decided by: all but the masks, unless it speaks of them."""
    small = [field for field in schema if field.name != "masks"]
    try:
        check_condition(where, pa.schema(small))
    except ConfigError:
        return list(schema.names)
    return [field.name for field in small]
