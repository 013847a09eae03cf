"""Plan and prompts of some images of a run, for a run of these images alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sam_pipeline.storage.inputs.source_object import SOURCE_SCHEMA
from sam_pipeline.storage.layout import table_uri
from sam_pipeline.storage.objects.filesystem import StorageOptions
from sam_pipeline.storage.tables.delta import committed_files, open_table
from sam_pipeline.storage.tables.plan import Plan, read_planned, write_plan_parts
from sam_pipeline.storage.tables.prompts import copy_prompts, read_prompts_header
from sam_pipeline.storage.tables.reading.table_reading import checked_opener, read_checked
from sam_pipeline.storage.tables.schema import PROMPTS_SCHEMA

_PART_BYTES = 64 * 2**20
# Rows of a plan: some tens of megabytes.
_PART_IMAGES = 2**17


def copy_plan(plan: Plan, image_ids: NDArray[np.int64], new: str, storage_options: StorageOptions) -> None:
    """Plan some images of a run in another output, in their order, so that ids are 0..M-1 there.

    Args:
        plan: of the run.
        image_ids: (M,) ascending.
        new: folder of the other run, without a plan.
        storage_options: of fsspec.
    """
    parts = (
        read_planned(plan.output, image_ids[first : first + _PART_IMAGES], storage_options).select(SOURCE_SCHEMA.names)
        for first in range(0, len(image_ids), _PART_IMAGES)
    )
    write_plan_parts(new, plan.input, parts, storage_options)


def copy_image_prompts(plan: Plan, image_ids: NDArray[np.int64], new: str, storage_options: StorageOptions) -> None:
    """Freeze the prompts of some images of a run, if it has any, for a run whose plan copy_plan makes."""
    header = read_prompts_header(plan.output, storage_options, plan.generation)
    if header is None or read_prompts_header(new, storage_options) is not None:
        return
    groups = (
        renumber(_chosen(rows, image_ids), image_ids) for rows in _prompt_row_groups(plan.output, storage_options)
    )
    copy_prompts(new, header, _parts(groups), len(image_ids), storage_options)


def _prompt_row_groups(output: str, storage_options: StorageOptions) -> Iterator[pa.Table]:
    table = open_table(table_uri(output, "prompts"), storage_options)
    assert table is not None, "its header was read"
    open_file = checked_opener(table, storage_options)
    for file in committed_files(table):
        yield from read_checked(file, open_file, PROMPTS_SCHEMA)


def _parts(groups: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Join row groups to parts of some size; the rows of an image, which are neighbours, are never divided."""
    held: list[pa.Table] = []
    for rows in groups:
        held += [rows] if rows.num_rows else []
        if sum(each.nbytes for each in held) >= _PART_BYTES:
            joined = pa.concat_tables(held)
            # Of the last image there may be more in the next row group.
            is_open = pc.equal(joined["image_id"], joined["image_id"][-1])
            if (whole := joined.filter(pc.invert(is_open))).num_rows:
                yield whole
            held = [joined.filter(is_open)]
    if held:
        yield pa.concat_tables(held)


def _chosen(rows: pa.Table, image_ids: NDArray[np.int64]) -> pa.Table:
    return rows.filter(pa.array(_positions(rows, image_ids)[1]))


def renumber(rows: pa.Table, image_ids: NDArray[np.int64]) -> pa.Table:
    """Rows of chosen images, with the place among the chosen as image_id; image_ids is (M,) ascending."""
    index = rows.schema.get_field_index("image_id")
    return rows.set_column(index, rows.schema.field(index), pa.array(_positions(rows, image_ids)[0], pa.int64()))


def _positions(rows: pa.Table, image_ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The place of each row's image among those chosen, and whether it is one of them; both (rows,)."""
    ids = rows["image_id"].to_numpy()
    places = np.searchsorted(image_ids, ids)
    is_chosen = image_ids[np.minimum(places, len(image_ids) - 1)] == ids
    return places, is_chosen
