"""Reading some rows and columns of the results, a row group at a time.

Not as a pyarrow dataset: that reads by threads of Arrow, also with use_threads=False, because of which a process that
ends right after it may abort (see table_reading.file_opener). Here reading is over when whoever asked has the rows, and
what may pass is tried again. A column of a row group is a request; on S3 that is half a second for a thousand images,
and to make Python objects of their masks takes longer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

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
from sam_pipeline.storage.tables.table_reading import file_opener


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
    deciding = [] if where is None else _deciding(where, schema)
    files = sorted(committed_files(table), key=lambda file: file.min_image_id)
    open_file = file_opener(table, files, storage_options, pre_buffer=False)
    for file in files:
        uri = join_uri(table.uri, file.path)
        with output_errors(uri):
            parquet = retried(partial(open_file, file), what=f"read {uri}", denied_is_final=False)
            for group in range(parquet.num_row_groups):
                read = partial(_read_group, parquet, group, schema, uri)
                if where is None:
                    yield read(columns)
                elif (matching := read(deciding).filter(where)).num_rows:
                    is_read = set(columns) <= set(deciding)
                    yield (matching if is_read else read(schema.names).filter(where)).select(columns)


def read_results(
    table: Table, columns: Sequence[str], where: pc.Expression | None, storage_options: StorageOptions
) -> pa.Table:
    """As iterate_results, in one table."""
    nothing = results_schema(table).empty_table().select(columns)
    return pa.concat_tables([nothing, *iterate_results(table, columns, where, storage_options)])


def _deciding(where: pc.Expression, schema: pa.Schema) -> list[str]:
    """Columns that a condition is decided by: all but the masks, unless it speaks of them."""
    small = [field for field in schema if field.name != "masks"]
    try:
        check_condition(where, pa.schema(small))
    except ConfigError:
        return list(schema.names)
    return [field.name for field in small]


def _read_group(parquet: pq.ParquetFile, group: int, schema: pa.Schema, uri: str, columns: Sequence[str]) -> pa.Table:
    rows = retried(
        lambda: parquet.read_row_group(group, columns=columns, use_threads=False),
        what=f"read {uri}",
        denied_is_final=False,
    )
    # To the table's types: files that delta-rs has rewritten hold strings as views, which pyarrow cannot compare.
    return rows.select(columns).cast(pa.schema([schema.field(name) for name in columns]))
