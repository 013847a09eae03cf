"""The frozen prompts of a run: which image has which. Written into OUTPUT/prompts when there are any.

The prompts of an image never change: what images that are added later get is appended. So a run is pinned by the hash
of the prompts that it began with.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable

from sam_pipeline.errors import FencedError, OutputError
from sam_pipeline.storage.delta import (
    commit_files,
    committed_epoch,
    create_table,
    open_table,
    output_errors,
    put_parquet,
    read_columns,
    read_id_range,
    table_metadata,
)
from sam_pipeline.storage.filesystem import StorageOptions, join_uri
from sam_pipeline.storage.retrying import retried
from sam_pipeline.storage.schema import PROMPTS_SCHEMA

_ROWS_PER_FILE = 1_000_000
_ROWS_PER_GROUP = 16_384
# Prompts with a mask take 256 KiB each.
_MASK_ROWS_PER_FILE = 1024
_MASK_ROWS_PER_GROUP = 64

Source = Mapping[str, Any]
"""What the prompts were read from, and how: compared when the same command is given again."""


@dataclass(frozen=True)
class Prompts:
    """What is frozen, without the prompts themselves."""

    sha256: str
    """Of the prompts that the run began with."""
    source: Source
    """Of the last that were added."""
    num_images: int
    """Planned images whose prompts are here: those with a lower image_id."""
    num_prompts: int
    num_regions: int
    max_prompts: int
    """Of an image."""


def read_prompts_header(output: str, options: StorageOptions) -> Prompts | None:
    """What is frozen; None if there are no prompts."""
    table = open_table(join_uri(output, "prompts"), options, denied_is_final=False)
    if table is None or committed_epoch(table) is None:
        return None
    return _header(table)


def write_prompts(output: str, prompts: pa.Table, source: Source, num_images: int, options: StorageOptions) -> Prompts:
    """Freeze the prompts of a planned run, in one transaction.

    Args:
        output: folder of the run.
        prompts: (N,) rows of PROMPTS_SCHEMA; those of an image in their order.
        source: where they are from.
        num_images: in the plan.
        options: of the storage.

    Raises:
        FencedError: another start froze prompts first.
        OutputError: the place cannot be written.
    """
    uri, prompts = join_uri(output, "prompts"), _sorted(prompts)
    sha256 = _sha256(prompts)
    table = open_table(uri, options) or create_table(uri, PROMPTS_SCHEMA, {"sha256": sha256}, options)
    if committed_epoch(table) is not None:
        raise FencedError(f"another run froze prompts in {uri} meanwhile; the same command uses them")
    if table_metadata(table).get("sha256") != sha256:
        raise OutputError(f"{uri} was begun with other prompts; use another output")
    return _append(table, prompts, source, num_images, options, epoch=1)


def extend_prompts(output: str, prompts: pa.Table, source: Source, num_images: int, options: StorageOptions) -> Prompts:
    """Add the prompts of images that were added to the plan, in one transaction; see write_prompts.

    Raises:
        FencedError: another start did so meanwhile.
        OutputError: there are no prompts, or the place cannot be written.
    """
    uri = join_uri(output, "prompts")
    table = open_table(uri, options)
    epoch = None if table is None else committed_epoch(table)
    if table is None or epoch is None:
        raise OutputError(f"the prompts disappeared: {uri}")
    if prompts.num_rows and pc.min(prompts["image_id"]).as_py() < _header(table).num_images:
        raise FencedError(f"another run added prompts to {uri} meanwhile; the same command looks again")
    return _append(table, _sorted(prompts), source, num_images, options, epoch=epoch + 1)


def read_prompts(output: str, start: int, stop: int, options: StorageOptions) -> dict[int, list[dict[str, Any]]]:
    """The prompts and regions of images with start ≤ image_id < stop: image_id → rows of PROMPT_TYPE, in order."""
    rows = read_id_range(join_uri(output, "prompts"), start, stop, options)
    # Rows of one file keep their order; those of an image are in one file.
    by_image: dict[int, list[dict[str, Any]]] = {}
    for row in rows.select(PROMPTS_SCHEMA.names).cast(PROMPTS_SCHEMA).to_pylist():
        by_image.setdefault(row.pop("image_id"), []).append(row)
    return by_image


def count_prompts(output: str, num_images: int, options: StorageOptions) -> np.ndarray[Any, np.dtype[np.int64]]:
    """(num_images,) prompts of each image, regions not counted."""
    counts = np.zeros(num_images, np.int64)
    table = open_table(join_uri(output, "prompts"), options)
    if table is None:
        return counts
    for rows in read_columns(table, ["image_id", "role"], options):
        ids = rows.filter(pc.equal(rows["role"], "prompt"))["image_id"].to_numpy()
        counts += np.bincount(ids, minlength=num_images)
    return counts


def _append(
    table: DeltaTable, rows: pa.Table, source: Source, num_images: int, options: StorageOptions, *, epoch: int
) -> Prompts:
    ids = rows.filter(pc.equal(rows["role"], "prompt"))["image_id"].to_numpy()
    have_masks = rows["mask_input"].null_count < rows.num_rows
    per_file, per_group = (
        (_MASK_ROWS_PER_FILE, _MASK_ROWS_PER_GROUP) if have_masks else (_ROWS_PER_FILE, _ROWS_PER_GROUP)
    )
    before = None if epoch == 1 else _header(table)
    summary = {
        "source": json.dumps(source),
        "num_images": num_images,
        "num_prompts": len(ids) + (before.num_prompts if before else 0),
        "num_regions": rows.num_rows - len(ids) + (before.num_regions if before else 0),
        "max_prompts": max(_most_alike(ids), before.max_prompts if before else 0),
    }
    files = [put_parquet(table.table_uri, part, options, row_group_size=per_group) for part in _parts(rows, per_file)]
    metadata = {"prompts": json.dumps(summary)}
    commit_files(table, PROMPTS_SCHEMA, files, options, epoch=epoch, custom_metadata=metadata)
    return _header(table)


def _sorted(prompts: pa.Table) -> pa.Table:
    """In the order of image_id; stable, so that those of an image stay in their order."""
    rows = prompts.select(PROMPTS_SCHEMA.names).cast(PROMPTS_SCHEMA)
    order = np.argsort(rows["image_id"].to_numpy(), kind="stable")
    return rows if (np.diff(order) == 1).all() else rows.take(pa.array(order))


def _parts(rows: pa.Table, per_file: int) -> list[pa.Table]:
    """Slices of about so many rows; the rows of an image are never divided."""
    ids = rows["image_id"].to_numpy()
    parts, start = [], 0
    while start < len(ids):
        stop = int(np.searchsorted(ids, ids[min(start + per_file, len(ids)) - 1], side="right"))
        parts.append(rows.slice(start, stop - start))
        start = stop
    return parts


def _most_alike(sorted_ids: np.ndarray[Any, np.dtype[np.int64]]) -> int:
    return int(np.unique(sorted_ids, return_counts=True)[1].max(initial=0))


def _header(table: DeltaTable) -> Prompts:
    with output_errors(table.table_uri):
        entries = retried(table.history, what=f"read {table.table_uri}", denied_is_final=False)
    summary = json.loads(next(entry["prompts"] for entry in entries if "prompts" in entry))
    summary["source"] = json.loads(summary["source"])
    return Prompts(sha256=table_metadata(table)["sha256"], **summary)


def _sha256(prompts: pa.Table) -> str:
    buffer = io.BytesIO()
    with pa.ipc.new_stream(buffer, PROMPTS_SCHEMA) as stream:
        stream.write_table(prompts.combine_chunks())
    return hashlib.sha256(buffer.getbuffer()).hexdigest()
