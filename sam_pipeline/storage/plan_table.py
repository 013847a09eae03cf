"""The frozen plan: which image has which id. Written once into OUTPUT/images, read by every start and every worker."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sam_pipeline.errors import FencedError, OutputError
from sam_pipeline.storage.delta import (
    DataFile,
    commit_files,
    committed_epoch,
    committed_files,
    create_table,
    open_table,
    put_parquet,
    table_id,
    table_metadata,
    take_epoch,
)
from sam_pipeline.storage.delta_place import Table
from sam_pipeline.storage.filesystem import StorageOptions, join_uri
from sam_pipeline.storage.schema import IMAGES_SCHEMA
from sam_pipeline.storage.sources.source_image import SOURCE_SCHEMA
from sam_pipeline.storage.table_reading import ImageIds, checked_opener, read_columns, read_file, read_image_rows

_ROWS_PER_FILE = 1_000_000
# Workers read a few hundred consecutive ids at a time: a row group is what they have to decompress for it.
_ROWS_PER_GROUP = 16_384
_EPOCH = 1


@dataclass(frozen=True)
class Plan:
    """A committed plan."""

    output: str
    input: str
    num_images: int


def read_plan(output: str, options: StorageOptions) -> Plan | None:
    """The plan of an output; None if there is none, or if planning was interrupted before its commit."""
    table = open_table(join_uri(output, "images"), options)
    if table is None:
        return None
    metadata = table_metadata(table)
    if committed_epoch(table) is None:
        return None
    return Plan(output, metadata["input"], table.count())


def write_plan(output: str, input_uri: str, images: pa.Table, options: StorageOptions) -> Plan:
    """Commit a plan of images, (N,) rows of SOURCE_SCHEMA in the order of their ids, in one transaction.

    A killed attempt leaves at most an empty table and files that no reader sees; the next attempt starts over.

    Raises:
        FencedError: another planner committed first.
        OutputError: the place cannot be written.
    """
    uri = join_uri(output, "images")
    table = open_table(uri, options) or create_table(uri, IMAGES_SCHEMA, {"input": input_uri}, options)
    if table_metadata(table).get("input") != input_uri:
        raise OutputError(
            f"{uri} was begun for another input ({table_metadata(table).get('input')}); use another output"
        )
    if committed_epoch(table) is not None:
        # A commit from this snapshot would meet no conflict and plan every image a second time.
        raise FencedError(f"another run made a plan in {uri} meanwhile; the same command uses it")
    files = [_put(uri, table, _rows(images, start), options) for start in range(0, images.num_rows, _ROWS_PER_FILE)]
    commit_files(table, IMAGES_SCHEMA, files, options, epoch=_EPOCH)
    return Plan(output, input_uri, images.num_rows)


def extend_plan(plan: Plan, new: pa.Table, changed: pa.Table, options: StorageOptions) -> Plan:
    """Add images to a plan and correct what it says of others, in one transaction.

    Args:
        plan: as it is now.
        new: (N,) rows of SOURCE_SCHEMA, which get the next ids.
        changed: (M,) rows of IMAGES_SCHEMA, which take the place of those with their image_id.
        options: storage options.

    Raises:
        FencedError: another planner committed meanwhile; nothing was changed.
        OutputError: the place cannot be written.
    """
    uri = join_uri(plan.output, "images")
    table = open_table(uri, options)
    if table is None or committed_epoch(table) is None:
        raise OutputError(f"the plan disappeared: {uri}")
    if table.count() != plan.num_images:
        raise FencedError(f"another run changed the plan in {uri} meanwhile; the same command looks again")
    if not new.num_rows and not changed.num_rows:
        return plan
    epoch = take_epoch(table, IMAGES_SCHEMA, options)
    files = committed_files(table)
    open_file = checked_opener(table, options)
    replaced = [file for file in files if _ids_between(changed, file.min_image_id, file.max_image_id).num_rows]
    put = [_put(uri, table, _corrected(read_file(table, file, open_file), changed), options) for file in replaced]
    put += [
        _put(uri, table, _rows(new, start, plan.num_images), options)
        for start in range(0, new.num_rows, _ROWS_PER_FILE)
    ]
    commit_files(table, IMAGES_SCHEMA, put, options, epoch=epoch, replaced=replaced)
    return Plan(plan.output, plan.input, plan.num_images + new.num_rows)


def _put(uri: str, table: Table, rows: pa.Table, options: StorageOptions) -> DataFile:
    return put_parquet(uri, rows, options, row_group_size=_ROWS_PER_GROUP, table_id=table_id(table))


def _ids_between(rows: pa.Table, first: int, last: int) -> pa.Table:
    return rows.filter((pc.field("image_id") >= first) & (pc.field("image_id") <= last))


def _corrected(rows: pa.Table, changed: pa.Table) -> pa.Table:
    ids = rows["image_id"]
    mine = _ids_between(changed, pc.min(ids).as_py(), pc.max(ids).as_py())
    kept = rows.filter(pc.invert(pc.is_in(ids, mine["image_id"].combine_chunks())))
    parts = [part.select(IMAGES_SCHEMA.names).cast(IMAGES_SCHEMA) for part in (kept, mine)]
    return pa.concat_tables(parts).sort_by("image_id")


def iterate_planned(
    plan: Plan, columns: Sequence[str], options: StorageOptions, *, is_checked: bool = False
) -> Iterator[pa.Table]:
    """Some columns of a whole plan, image_id among them, a file at a time, in any order.

    Images that another start added since the plan was read are left out.

    Args:
        plan: as it was read.
        columns: their names.
        options: storage options.
        is_checked: see read_columns.
    """
    uri = join_uri(plan.output, "images")
    table = open_table(uri, options)
    if table is None:
        raise OutputError(f"the plan disappeared: {uri}")
    for rows in read_columns(table, columns, options, is_checked=is_checked):
        yield rows.filter(pc.field("image_id") < plan.num_images)


def read_planned(output: str, image_ids: ImageIds, options: StorageOptions) -> pa.Table:
    """The planned rows of images, whose ids are ascending, in id order; none for an id that is not planned."""
    rows = read_image_rows(join_uri(output, "images"), image_ids, options)
    return rows.sort_by("image_id").cast(IMAGES_SCHEMA)


def _rows(images: pa.Table, start: int, first_id: int = 0) -> pa.Table:
    part = images.slice(start, _ROWS_PER_FILE).select(SOURCE_SCHEMA.names).cast(SOURCE_SCHEMA)
    ids = pa.array(np.arange(first_id + start, first_id + start + part.num_rows))
    return part.add_column(0, IMAGES_SCHEMA.field("image_id"), ids)
