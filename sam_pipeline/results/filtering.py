"""Writing a run that holds chosen masks of another, so that every reader of runs takes it for what it is.

The new run has the images that have a row and that include and exclude leave, in their order. If these are all planned
images, each keeps its id. Else ids are 0..M-1 in the same order, as every plan has them; the URI tells which is which.

It comes into being in this order, each step in one transaction: an empty table of results, whose fingerprint says what
is being filtered and how; prompts; the plan, before which no reader takes it for a run; rows, some files at a time. So
a killed filter leaves nothing, or a run that is unfinished. The same command goes on, with the version of the source
that it began with.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sam_pipeline.config.fingerprint import filters_of
from sam_pipeline.errors import InputError, OutputError
from sam_pipeline.results.copying import copy_image_prompts, copy_plan, renumber
from sam_pipeline.results.results import Results
from sam_pipeline.results.row_groups import Reading
from sam_pipeline.results.selection.choosing import list_array, with_fields
from sam_pipeline.storage.layout import check_apart, table_uri
from sam_pipeline.storage.maintenance.status import count_results
from sam_pipeline.storage.objects.filesystem import StorageOptions
from sam_pipeline.storage.tables.delta import open_table, table_metadata
from sam_pipeline.storage.tables.delta_place import Table
from sam_pipeline.storage.tables.output_folder import check_empty
from sam_pipeline.storage.tables.plan import existing_plan, read_plan
from sam_pipeline.storage.tables.results import MaskTable, put_shard
from sam_pipeline.storage.tables.schema import MASKS_SCHEMA, SCHEMA_VERSION
from sam_pipeline.storage.tables.start_records import without_records

# A shard is held once as Arrow and twice as a file.
_SHARD_BYTES = 64 * 2**20
_SHARD_ROWS = 2**18

Advance = Callable[[int], object]
"""Called with the number of images that were done since the last call."""


@dataclass
class Filtered:
    """A run that was filtered."""

    num_images: int
    num_before: int = 0
    """Images that earlier starts of the same command had done."""
    num_masks: int = 0
    num_left_out: int = 0
    """Images without a place in the new run because of include and exclude."""
    num_pending: int = 0
    """Planned images of the source without a row, which have no place in the new run either."""
    version: int = 0
    """Version of the source's table of results."""
    reading: Reading = field(default_factory=Reading)
    """Bytes that this start has read, and masks that it has dropped."""

    @property
    def is_renumbered(self) -> bool:
        """Whether ids are others than in the source."""
        return bool(self.num_left_out or self.num_pending)


def filter_run(source: Results, new: str, show: Callable[[Filtered], Advance]) -> Filtered:
    """Write a run that holds the masks of another that its selection keeps; or go on with one that was begun.

    Takes some 700 MB of memory with 60 masks an image, and 30 bytes for each image.

    Args:
        source: what to filter, with the selection.
        new: folder of the new run, empty or absent; a path or URI, as absolute_uri makes it.
        show: makes what shows the progress, once it is known how many images there are.

    Raises:
        ConfigError: new cannot be an output, or lies in a table of the source.
        InputError: the selection leaves no image.
        OutputError: new holds something else; the source has no rows, or is damaged; something cannot be read or
            written.
        FencedError: another start of the same command took over.
        StorageUnavailableError: storage did not answer.
    """
    options = source.storage_options
    check_apart(new, source.output, options)
    begun = open_table(table_uri(new, "masks"), options)
    if begun is None:
        check_empty(new, options)
    else:
        source = _as_begun(source, new, begun)
    result = Filtered(0, version=source.table.version())
    image_ids = _image_ids(source, result)
    plan = existing_plan(source.output, options)
    table = MaskTable.take_over(new, _fingerprint(source), _other_metadata(source), options)
    copy_image_prompts(plan, image_ids, new, options)
    if read_plan(new, options) is None:
        copy_plan(plan, image_ids, new, options)
    _copy_rows(source, image_ids, new, table, result, show)
    return result


def _as_begun(source: Results, new: str, begun: Table) -> Results:
    """The source at the version with which the same command began.

    Raises:
        OutputError: what has begun is something else, or that version is no longer there.
    """
    filters = filters_of(json.loads(table_metadata(begun)["fingerprint"]))
    wanted = filters_of(_fingerprint(source))
    if not filters or filters[-1] | {"version": 0} != wanted[-1] | {"version": 0}:
        raise OutputError(f"{new} holds another run; give a folder that is empty, or new")
    version = filters[-1]["version"]
    if version == source.table.version():
        return source
    if _is_finished(new, begun, source.storage_options):
        raise OutputError(
            f"{new} is finished, from version {version} of {source.output}; that run now has version "
            f"{source.table.version()}. Give an empty or new folder"
        )
    try:
        return source.at_version(version)
    except OutputError as error:
        raise OutputError(
            f"{new} was begun with version {version} of {source.output}, which is gone: filter into another folder "
            f"({error})"
        ) from error


def _is_finished(output: str, table: Table, options: StorageOptions) -> bool:
    plan = read_plan(output, options)
    return plan is not None and Results(output, plan.num_images, table, options).num_done == plan.num_images


def _image_ids(source: Results, result: Filtered) -> NDArray[np.int64]:
    """Ids of the images that have a place in the new run, ascending.

    Raises:
        InputError: there are none.
        OutputError: the source has no rows, or two of an image.
    """
    last_id = source.num_images - 1
    found = [
        rows["image_id"].to_numpy() for rows in source.tables(["image_id"], last_id=last_id, reading=result.reading)
    ]
    image_ids = np.sort(np.concatenate([np.zeros(0, np.int64), *found]))
    if not source.num_done:
        raise OutputError(f"{source.output} has no results yet")
    if not len(image_ids):
        raise InputError(f"include and exclude leave no image of {source.output}")
    if len(twice := image_ids[1:][np.diff(image_ids) == 0]):
        raise OutputError(f"image {twice[0]} of {source.output} has more than one row; the command verify says more")
    result.num_images = len(image_ids)
    result.num_pending = source.num_images - source.num_done
    result.num_left_out = source.num_done - len(image_ids)
    return image_ids


def _fingerprint(source: Results) -> Mapping[str, Any]:
    """The source's, and what was filtered."""
    # As JSON gives it back, to compare it with what is stored.
    selection = json.loads(json.dumps(source.selection.effective()))
    last = {"source": source.output, "version": source.table.version(), "selection": selection}
    return {
        **source.settings,
        "schema_version": SCHEMA_VERSION,
        "filters": [*filters_of(source.settings), last],
    }


def _other_metadata(source: Results) -> dict[str, str]:
    metadata = without_records(table_metadata(source.table))
    return {name: value for name, value in metadata.items() if name != "fingerprint"}


def _copy_rows(
    source: Results,
    image_ids: NDArray[np.int64],
    new: str,
    table: MaskTable,
    result: Filtered,
    show: Callable[[Filtered], Advance],
) -> None:
    done = table.committed_ids(len(image_ids))
    result.num_before = int(done.sum())
    if result.num_before:
        result.num_masks = count_results(table.snapshot, source.storage_options)[1]
    left_out = np.ones(source.num_images, dtype=bool)
    left_out[image_ids[~done]] = False
    advance = show(result)
    rows = source.tables(source.schema.names, last_id=source.num_images - 1, left_out=left_out, reading=result.reading)
    for part in _shards(_current(renumber(each, image_ids)) for each in rows):
        table.commit([put_shard(new, part, source.storage_options, table_id=table.id)])
        result.num_masks += int(part["num_masks"].to_numpy().sum())
        advance(part.num_rows)


def _shards(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Rows joined until they make a file of some size."""
    held: list[pa.Table] = []
    for rows in tables:
        held.append(rows)
        if sum(each.nbytes for each in held) >= _SHARD_BYTES or sum(each.num_rows for each in held) >= _SHARD_ROWS:
            yield pa.concat_tables(held)
            held = []
    if held:
        yield pa.concat_tables(held)


def _current(rows: pa.Table) -> pa.Table:
    """Rows with the columns of now; what the table is too old to have is null."""
    kind = MASKS_SCHEMA.field("masks").type
    columns = {name: rows[name] for name in rows.schema.names}
    if columns["masks"].type != kind:
        columns["masks"] = with_fields(kind, list_array(columns["masks"]))
    return pa.table(
        [columns.get(each.name, pa.nulls(rows.num_rows, each.type)) for each in MASKS_SCHEMA], schema=MASKS_SCHEMA
    )
