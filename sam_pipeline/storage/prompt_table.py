"""The frozen prompts of a run: which image has which. Written into OUTPUT/prompts when there are any.

The prompts of an image never change: what images that are added later get is appended. So a run is pinned by the hash
of the prompts that it began with. A table without a commit says that prompts were given and are still to be frozen.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sam_pipeline.errors import FencedError, OutputError
from sam_pipeline.storage.delta import (
    commit_files,
    committed_epoch,
    create_table,
    open_table,
    output_errors,
    put_parquet,
)
from sam_pipeline.storage.delta_place import Table
from sam_pipeline.storage.filesystem import StorageOptions, join_uri
from sam_pipeline.storage.retrying import retried
from sam_pipeline.storage.schema import PROMPTS_SCHEMA
from sam_pipeline.storage.table_reading import ImageIds, read_columns, read_image_rows

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
    max_masks: int
    """Prompts of an image that hold a mask: these are large."""


def announce_prompts(output: str, options: StorageOptions) -> None:
    """Say, before there is a plan, that prompts will follow it: a start in between must not do without them.

    Raises:
        OutputError: the place cannot be written.
    """
    create_table(join_uri(output, "prompts"), PROMPTS_SCHEMA, {}, options)


def are_prompts_announced(output: str, options: StorageOptions) -> bool:
    """Whether prompts are frozen, or were to be."""
    return open_table(join_uri(output, "prompts"), options, denied_is_final=False) is not None


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
    uri = join_uri(output, "prompts")
    table = open_table(uri, options) or create_table(uri, PROMPTS_SCHEMA, {}, options)
    if committed_epoch(table) is not None:
        raise FencedError(f"another run froze prompts in {uri} meanwhile; the same command uses them")
    return _append(table, _sorted(prompts), source, num_images, options, epoch=1)


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
    num_frozen = _header(table).num_images
    if num_frozen >= num_images or (prompts.num_rows and pc.min(prompts["image_id"]).as_py() < num_frozen):
        raise FencedError(f"another run added prompts to {uri} meanwhile; the same command looks again")
    return _append(table, _sorted(prompts), source, num_images, options, epoch=epoch + 1)


def read_image_prompts(output: str, image_ids: ImageIds, options: StorageOptions) -> dict[int, list[dict[str, Any]]]:
    """The prompts and regions of images, whose ids are ascending: image_id → rows of PROMPT_TYPE, in order."""
    rows = read_image_rows(join_uri(output, "prompts"), image_ids, options)
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
    table: Table, rows: pa.Table, source: Source, num_images: int, options: StorageOptions, *, epoch: int
) -> Prompts:
    is_prompt, has_mask = pc.equal(rows["role"], "prompt"), rows["mask_input"].is_valid()
    num_prompts, max_prompts = _counted(rows.filter(is_prompt))
    num_masks, max_masks = _counted(rows.filter(has_mask))
    per_file, per_group = (
        (_MASK_ROWS_PER_FILE, _MASK_ROWS_PER_GROUP) if num_masks else (_ROWS_PER_FILE, _ROWS_PER_GROUP)
    )
    before = None if epoch == 1 else _header(table)
    summary = {
        "sha256": before.sha256 if before else _sha256(rows, per_group),
        "source": json.dumps(source),
        "num_images": num_images,
        "num_prompts": num_prompts + (before.num_prompts if before else 0),
        "num_regions": rows.num_rows - num_prompts + (before.num_regions if before else 0),
        "max_prompts": max(max_prompts, before.max_prompts if before else 0),
        "max_masks": max(max_masks, before.max_masks if before else 0),
    }
    files = [put_parquet(table.uri, part, options, row_group_size=per_group) for part in _parts(rows, per_file)]
    metadata = {"prompts": json.dumps(summary)}
    commit_files(table, PROMPTS_SCHEMA, files, options, epoch=epoch, custom_metadata=metadata)
    return _header(table)


def _counted(rows: pa.Table) -> tuple[int, int]:
    """How many there are, and how many of an image at most."""
    _, per_image = np.unique(rows["image_id"].to_numpy(), return_counts=True)
    return rows.num_rows, int(per_image.max(initial=0))


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


def _header(table: Table) -> Prompts:
    with output_errors(table.uri):
        entries = retried(table.history, what=f"read {table.uri}", denied_is_final=False)
    summary = json.loads(next(entry["prompts"] for entry in entries if "prompts" in entry))
    summary["source"] = json.loads(summary["source"])
    return Prompts(**summary)


def _sha256(prompts: pa.Table, at_once: int) -> str:
    """Of the rows, however they are divided into chunks; only so many are copied at once."""
    digest = hashlib.sha256()
    for start in range(0, prompts.num_rows, at_once):
        (rows,) = prompts.slice(start, at_once).combine_chunks().to_batches()
        digest.update(rows.serialize())
    return digest.hexdigest()
