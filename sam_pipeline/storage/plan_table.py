"""The frozen plan: which image has which id. Written once into OUTPUT/images, read by every start and every worker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from sam_pipeline.errors import FencedError, OutputError
from sam_pipeline.storage.delta import (
    APP_ID,
    commit_files,
    create_table,
    open_table,
    output_errors,
    put_parquet,
    table_metadata,
    unused_files,
)
from sam_pipeline.storage.filesystem import StorageOptions, join_uri
from sam_pipeline.storage.retrying import retried
from sam_pipeline.storage.schema import IMAGES_SCHEMA
from sam_pipeline.storage.sources import SourceImage

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
    if table.transaction_version(APP_ID) is None:
        return None
    return Plan(output, metadata["input"], table.count())


def write_plan(output: str, input_uri: str, images: Sequence[SourceImage], options: StorageOptions) -> Plan:
    """Commit a plan of images, which must be sorted by URI, in one transaction.

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
    if table.transaction_version(APP_ID) is not None:
        # A commit from this snapshot would meet no conflict and plan every image a second time.
        raise FencedError(f"another run made a plan in {uri} meanwhile; the same command uses it")
    files = [
        put_parquet(uri, _rows(images, start), options, row_group_size=_ROWS_PER_GROUP)
        for start in range(0, len(images), _ROWS_PER_FILE)
    ]
    commit_files(table, IMAGES_SCHEMA, files, options, epoch=_EPOCH)
    return Plan(output, input_uri, len(images))


def read_planned(output: str, start: int, stop: int, options: StorageOptions) -> pa.Table:
    """The planned rows with start ≤ image_id < stop, in id order."""
    uri = join_uri(output, "images")
    # Not denied for good: workers read plans for days, and a role's credentials are renewed in between.
    table = open_table(uri, options, denied_is_final=False)
    if table is None:
        raise OutputError(f"the plan disappeared: {uri}")
    in_range = (pc.field("image_id") >= start) & (pc.field("image_id") < stop)
    with output_errors(uri):
        rows = retried(
            lambda: table.to_pyarrow_dataset().to_table(filter=in_range), what=f"read {uri}", denied_is_final=False
        )
    return rows.sort_by("image_id").cast(IMAGES_SCHEMA)


def unused_plan_files(output: str, retention_hours: int, options: StorageOptions) -> list[str]:
    """Files that interrupted planners left; none before there is a plan, while one of them may still be committed."""
    table = open_table(join_uri(output, "images"), options)
    if table is None or table.transaction_version(APP_ID) is None:
        return []
    return unused_files(table, retention_hours=retention_hours)


def _rows(images: Sequence[SourceImage], start: int) -> pa.Table:
    part = images[start : start + _ROWS_PER_FILE]
    columns = [
        range(start, start + len(part)),
        [image.uri for image in part],
        [image.size_bytes for image in part],
        [image.etag for image in part],
    ]
    return pa.Table.from_arrays(
        [pa.array(column, field.type) for column, field in zip(columns, IMAGES_SCHEMA, strict=True)],
        schema=IMAGES_SCHEMA,
    )
