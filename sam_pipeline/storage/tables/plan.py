"""The frozen plan: which image has which id. Written into OUTPUT/images, read by every start and every worker.

While there are no results it may be made anew, as the next generation. Its input, generation and listing are custom
metadata of its commits: to change the table's metadata would take a commit more.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tenacity

from sam_pipeline.errors import FencedError, OutputError
from sam_pipeline.storage.inputs.source_object import SOURCE_SCHEMA
from sam_pipeline.storage.layout import table_uri
from sam_pipeline.storage.objects.filesystem import StorageOptions
from sam_pipeline.storage.tables.delta import DataFile, committed_files, open_table, table_metadata
from sam_pipeline.storage.tables.delta_place import Table
from sam_pipeline.storage.tables.fenced_table import FencedTable
from sam_pipeline.storage.tables.reading.table_reading import (
    ImageIds,
    checked_opener,
    read_columns,
    read_file,
    read_image_rows,
)
from sam_pipeline.storage.tables.schema import IMAGES_SCHEMA

_ROWS_PER_FILE = 1_000_000
# Workers read a few hundred consecutive ids at a time: a row group is what they have to decompress for it.
_ROWS_PER_GROUP = 16_384
_FIRST_EPOCH = 1
_CONFIRMATIONS = 10


@dataclass(frozen=True)
class Plan:
    """A committed plan."""

    output: str
    input: str
    num_images: int
    generation: int = 1
    """How often it was made: 1, or more where it was made anew."""
    version: int = field(default=0, compare=False)
    """Version of the table when it was read."""
    listing: Mapping[str, Any] | None = field(default=None, compare=False)
    """The settings of its listing that were given; None where they are not known: of an earlier version, or of a run
    that was filtered."""


def read_plan(output: str, storage_options: StorageOptions, *, denied_is_final: bool = True) -> Plan | None:
    """The plan of an output; None if there is none, or planning was interrupted before its commit. See open_table."""
    table = FencedTable.open(output, "images", storage_options, denied_is_final=denied_is_final)
    if table is None:
        return None
    table_metadata(table.snapshot)  # raises for a table of another program
    if table.committed_epoch() is None:
        return None
    kept, snapshot = _kept(table), table.snapshot
    return Plan(output, kept["input"], snapshot.count(), kept["generation"], snapshot.version(), kept.get("listing"))


def existing_plan(output: str, storage_options: StorageOptions, *, denied_is_final: bool = True) -> Plan:
    """The plan of an output that has one; see read_plan.

    Raises:
        OutputError: there is none.
    """
    plan = read_plan(output, storage_options, denied_is_final=denied_is_final)
    if plan is None:
        raise OutputError(f"no plan in {output}")
    return plan


def open_planned_results(output: str, storage_options: StorageOptions) -> tuple[Plan, Table | None]:
    """The plan of an output, and its results; None in their place if no start has begun them.

    Each image of the results is in the plan.

    Raises:
        OutputError: there is no plan; one of the two cannot be read.
        StorageUnavailableError: storage did not answer.
    """
    # Before the plan: another start may extend the plan and add rows to the results.
    results = open_table(table_uri(output, "masks"), storage_options)
    return existing_plan(output, storage_options), results


def write_plan(
    output: str,
    input_uri: str,
    images: pa.Table,
    storage_options: StorageOptions,
    *,
    replaced: Plan | None = None,
    listing: Mapping[str, Any] | None = None,
) -> Plan:
    """Commit a plan of images that are in memory, (N,) rows of SOURCE_SCHEMA in the order of their ids.

    Arguments and errors are those of write_plan_parts.
    """
    return write_plan_parts(output, input_uri, [images], storage_options, replaced=replaced, listing=listing)


def write_plan_parts(
    output: str,
    input_uri: str,
    parts: Iterable[pa.Table],
    storage_options: StorageOptions,
    *,
    replaced: Plan | None = None,
    listing: Mapping[str, Any] | None = None,
) -> Plan:
    """Commit a plan of images, in one transaction. One part at a time is held.

    A killed attempt leaves at most an empty table and files that no reader sees; the next attempt starts over.

    Args:
        output: folder of the run.
        input_uri: what the images were listed from.
        parts: rows of SOURCE_SCHEMA in the order of their ids; each part becomes a file, or more if it is large.
        storage_options: of fsspec.
        replaced: the plan whose place it takes. Whoever replaces one makes sure, after it was read, that there are no
            results; a run that begins them meanwhile confirms its plan first, and then this fails.
        listing: the settings that the input was listed with, as JSON has them.

    Raises:
        FencedError: another planner committed first, or another run has begun.
        OutputError: the place cannot be written.
    """
    table = FencedTable.open(output, "images", storage_options)
    table = table or FencedTable.create(output, "images", {"input": input_uri}, storage_options)
    table_metadata(table.snapshot)  # raises for a table of another program
    epoch = table.committed_epoch()
    if replaced is None and epoch is not None:
        # A commit from this snapshot would meet no conflict and plan every image a second time.
        raise FencedError(f"another run made a plan in {table.uri} meanwhile; the same command uses it")
    if replaced is not None and table.snapshot.version() != replaced.version:
        raise FencedError(
            f"another run changed the plan in {table.uri}, or has begun with it; the same command looks again"
        )
    # No epoch before the files of a first plan are put: a table that has one counts as a plan.
    epoch = _FIRST_EPOCH if replaced is None else take_plan_epoch(table)
    files, num_images = [], 0
    for part in parts:
        files += [_put(table, _rows(part, start, num_images)) for start in range(0, part.num_rows, _ROWS_PER_FILE)]
        num_images += part.num_rows
    generation = 1 if replaced is None else replaced.generation + 1
    kept = {"input": input_uri, "generation": generation} | _listed(listing)
    _commit(table, files, epoch, committed_files(table.snapshot), **kept)
    return Plan(output, input_uri, num_images, generation, table.snapshot.version(), listing)


def take_plan_epoch(table: FencedTable) -> int:
    """Fence other writers of a plan; see FencedTable.take_epoch.

    The commit repeats what the plan says of itself: in tables of earlier versions delta-rs deletes old log entries.
    """
    return table.take_epoch({"plan": json.dumps(_kept(table))})


def confirm_plan(plan: Plan, storage_options: StorageOptions) -> None:
    """Check that a plan is the newest, and commit to its table: a planner that read it before cannot replace it then.

    Raises:
        FencedError: it was made anew meanwhile.
        OutputError: the place cannot be written.
    """
    # If two starts confirm one plan at the same time, one conflicts and tries again: the epoch of the results decides.
    attempts = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(FencedError),
        stop=tenacity.stop_after_attempt(_CONFIRMATIONS),
        wait=tenacity.wait_random(0, 0.2),
        reraise=True,
    )
    attempts(_confirm, plan, storage_options)


def check_plan(plan: Plan, storage_options: StorageOptions) -> None:
    """Make sure that a plan was not made anew since it was read.

    Raises:
        FencedError: it was.
    """
    _opened(plan, storage_options)


def _confirm(plan: Plan, storage_options: StorageOptions) -> None:
    table = _opened(plan, storage_options)
    epoch = table.committed_epoch()
    assert epoch is not None, "it was read"
    _commit(table, [], epoch, **_kept(table))


def extend_plan(
    plan: Plan,
    new: pa.Table,
    changed: pa.Table,
    storage_options: StorageOptions,
    *,
    listing: Mapping[str, Any] | None = None,
) -> Plan:
    """Add images to a plan and correct what it says of others, in one transaction.

    Args:
        plan: as it is now.
        new: (N,) rows of SOURCE_SCHEMA, which get the next ids.
        changed: (M,) rows of IMAGES_SCHEMA, which take the place of those with their image_id.
        storage_options: of fsspec.
        listing: the settings that the input was listed with now, as JSON has them; None: those that the plan has.

    Raises:
        FencedError: another planner committed meanwhile; nothing was changed.
        OutputError: the place cannot be written.
    """
    table = _opened(plan, storage_options)
    if table.committed_epoch() is None or table.snapshot.count() != plan.num_images:
        raise FencedError(f"another run changed the plan in {table.uri} meanwhile; the same command looks again")
    if not new.num_rows and not changed.num_rows and listing in (None, plan.listing):
        return plan
    epoch = take_plan_epoch(table)
    open_file = checked_opener(table.snapshot, storage_options)
    replaced = [
        file
        for file in committed_files(table.snapshot)
        if _ids_between(changed, file.min_image_id, file.max_image_id).num_rows
    ]
    put = [_put(table, _corrected(read_file(table.snapshot, file, open_file), changed)) for file in replaced]
    starts = range(0, new.num_rows, _ROWS_PER_FILE)
    put += [_put(table, _rows(new, start, plan.num_images)) for start in starts]
    kept = _kept(table) | _listed(listing)
    _commit(table, put, epoch, replaced, **kept)
    num_images = plan.num_images + new.num_rows
    return replace(plan, num_images=num_images, version=table.snapshot.version(), listing=kept.get("listing"))


def _opened(plan: Plan, storage_options: StorageOptions) -> FencedTable:
    """The table of a plan at its newest version, in which the plan is still the same but for what was added."""
    table = _found(plan, storage_options)
    if _kept(table)["generation"] != plan.generation:
        raise FencedError(f"another run made the plan in {table.uri} anew; the same command uses it")
    return table


def _found(plan: Plan, storage_options: StorageOptions) -> FencedTable:
    table = FencedTable.open(plan.output, "images", storage_options)
    if table is None:
        raise OutputError(f"the plan disappeared: {table_uri(plan.output, 'images')}")
    return table


def _commit(
    table: FencedTable, files: Sequence[DataFile], epoch: int, replaced: Sequence[DataFile] = (), **kept: Any
) -> None:
    table.commit(files, epoch=epoch, replaced=replaced, custom_metadata={"plan": json.dumps(kept)})


def _kept(table: FencedTable) -> dict[str, Any]:
    """What the commits of a plan say of it: input, generation, and how the input was listed if they say it."""
    kept = table.committed_metadata("plan")
    if kept is None:  # made by a version that had one generation only
        return {"input": table_metadata(table.snapshot)["input"], "generation": 1}
    return dict(json.loads(kept))


def _listed(listing: Mapping[str, Any] | None) -> dict[str, Any]:
    return {} if listing is None else {"listing": dict(listing)}


def _put(table: FencedTable, rows: pa.Table) -> DataFile:
    return table.put(rows, row_group_size=_ROWS_PER_GROUP)


def _ids_between(rows: pa.Table, first: int, last: int) -> pa.Table:
    return rows.filter((pc.field("image_id") >= first) & (pc.field("image_id") <= last))


def _corrected(rows: pa.Table, changed: pa.Table) -> pa.Table:
    ids = rows["image_id"]
    mine = _ids_between(changed, pc.min(ids).as_py(), pc.max(ids).as_py())
    kept = rows.filter(pc.invert(pc.is_in(ids, mine["image_id"].combine_chunks())))
    parts = [part.select(IMAGES_SCHEMA.names).cast(IMAGES_SCHEMA) for part in (kept, mine)]
    return pa.concat_tables(parts).sort_by("image_id")


def iterate_planned(
    plan: Plan, columns: Sequence[str], storage_options: StorageOptions, *, is_checked: bool = False
) -> Iterator[pa.Table]:
    """Some columns of a whole plan, image_id among them, a file at a time, in any order.

    Images that another start added since the plan was read are left out.

    Args:
        plan: as it was read.
        columns: their names.
        storage_options: of fsspec.
        is_checked: see read_columns.
    """
    for rows in read_columns(_found(plan, storage_options).snapshot, columns, storage_options, is_checked=is_checked):
        yield rows.filter(pc.field("image_id") < plan.num_images)


def read_planned(output: str, image_ids: ImageIds, storage_options: StorageOptions) -> pa.Table:
    """The planned rows of images, whose ids are ascending, in id order; none for an id that is not planned."""
    rows = read_image_rows(table_uri(output, "images"), image_ids, storage_options)
    return rows.sort_by("image_id").cast(IMAGES_SCHEMA)


def _rows(images: pa.Table, start: int, first_id: int = 0) -> pa.Table:
    part = images.slice(start, _ROWS_PER_FILE).select(SOURCE_SCHEMA.names).cast(SOURCE_SCHEMA)
    ids = pa.array(np.arange(first_id + start, first_id + start + part.num_rows))
    return part.add_column(0, IMAGES_SCHEMA.field("image_id"), ids)
