"""The frozen prompts of a run: which image has which. Written into OUTPUT/prompts when there are any.

The prompts of an image never change: what images that are added later get is appended. So a run is pinned by the hash
of the prompts that it began with. A table without a commit says that prompts were given and are still to be frozen.

Prompts are those of one generation of the plan. Where the plan was made anew, those of an earlier one count as none;
their place is taken by the new ones, or they are discarded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sam_pipeline.errors import FencedError, OutputError
from sam_pipeline.storage.layout import table_uri
from sam_pipeline.storage.objects.filesystem import StorageOptions
from sam_pipeline.storage.tables.delta import DataFile, committed_files
from sam_pipeline.storage.tables.fenced_table import FencedTable
from sam_pipeline.storage.tables.schema import PROMPTS_SCHEMA

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
    """Hash of the prompts that the run began with."""
    source: Source
    """Where the prompts that were added last came from."""
    num_images: int
    """The prompts of all images with an image_id below this are here."""
    num_prompts: int
    num_regions: int
    max_prompts: int
    """Prompts of an image at most."""
    max_masks: int
    """Prompts of an image that hold a mask: these are large."""
    generation: int = 1
    """Of the plan that they are for."""


def announce_prompts(output: str, storage_options: StorageOptions, generation: int = 1) -> None:
    """Announce that prompts will be frozen, so that no other start goes on without them; also before there is a plan.

    Args:
        output: folder of the run.
        storage_options: of fsspec.
        generation: of the plan that they are for.

    Raises:
        FencedError: another start froze prompts meanwhile.
        OutputError: the place cannot be written.
    """
    table = FencedTable.create(output, "prompts", {}, storage_options)
    if generation > 1:
        # What is frozen stays until the new plan is there.
        _commit(table, [], _said(table) | {"announced": generation}, table.next_epoch())


def announced_generation(output: str, storage_options: StorageOptions) -> int | None:
    """The generation of the plan for which prompts were announced that are not frozen; None where there is none."""
    table = FencedTable.open(output, "prompts", storage_options, denied_is_final=False)
    if table is None:
        return None
    return 1 if table.committed_epoch() is None else _said(table).get("announced")


def read_prompts_header(output: str, storage_options: StorageOptions, generation: int = 1) -> Prompts | None:
    """What is frozen for a generation of the plan; None if there are no prompts."""
    table = FencedTable.open(output, "prompts", storage_options, denied_is_final=False)
    if table is None or table.committed_epoch() is None:
        return None
    header = _header(table)
    return header if header is not None and header.generation == generation else None


def check_without_prompts(output: str, storage_options: StorageOptions, generation: int = 1) -> None:
    """Make sure that nobody has frozen, or is about to freeze, prompts for a plan of which a start found none.

    To be called by a start that has begun results, before their first row. Whoever freezes prompts announces them, and
    then stops runs without rows: one of the two sees the other.

    Raises:
        FencedError: somebody has.
    """
    # In this order, because freezing ends the announcement: the other way round, prompts frozen in between are missed.
    is_announced = announced_generation(output, storage_options) == generation
    if is_announced or read_prompts_header(output, storage_options, generation) is not None:
        raise FencedError(f"another run gives {output} prompts; once they are frozen the same command uses them")


def write_prompts(
    output: str,
    prompts: pa.Table,
    source: Source,
    num_images: int,
    storage_options: StorageOptions,
    generation: int = 1,
) -> Prompts:
    """Freeze the prompts of a planned run, in one transaction that also removes those of earlier generations.

    If the table has a commit already, prompts of this generation must have been announced.

    Args:
        output: folder of the run.
        prompts: (N,) rows of PROMPTS_SCHEMA; those of an image in their order.
        source: where they are from.
        num_images: in the plan.
        storage_options: of fsspec.
        generation: of the plan.

    Raises:
        FencedError: another start froze prompts first, or goes on without any.
        OutputError: the place cannot be written.
    """
    table = FencedTable.open(output, "prompts", storage_options) or FencedTable.create(
        output, "prompts", {}, storage_options
    )
    epoch = table.committed_epoch()
    frozen = None if epoch is None else _header(table)
    if frozen is not None and frozen.generation >= generation:
        raise FencedError(f"another run froze prompts in {table.uri} meanwhile; the same command uses them")
    if epoch is not None and _said(table).get("announced") != generation:
        raise FencedError(
            f"another run discarded what was announced in {table.uri} meanwhile; the same command looks again"
        )
    # No epoch before the first files are put: a table that has one counts as frozen.
    epoch = 1 if epoch is None else take_prompts_epoch(table)
    return _append(table, _sorted(prompts), source, num_images, generation, epoch=epoch, before=None)


def discard_prompts(output: str, storage_options: StorageOptions, generation: int) -> None:
    """Remove what earlier generations left, for a plan without prompts: their prompts and their announcement.

    Raises:
        FencedError: another start froze prompts meanwhile.
        OutputError: the place cannot be written.
    """
    table = FencedTable.open(output, "prompts", storage_options, denied_is_final=False)
    if table is None:
        return
    said = _said(table)
    if said["generation"] < generation and (committed_files(table.snapshot) or "announced" in said):
        _commit(table, [], {"generation": generation}, table.next_epoch(), committed_files(table.snapshot))


def extend_prompts(
    output: str,
    prompts: pa.Table,
    source: Source,
    num_images: int,
    storage_options: StorageOptions,
    generation: int = 1,
) -> Prompts:
    """Add the prompts of images that were added to the plan, in one transaction; see write_prompts.

    Raises:
        FencedError: another start did so meanwhile.
        OutputError: there are no prompts, or the place cannot be written.
    """
    table = FencedTable.open(output, "prompts", storage_options)
    before = None if table is None or table.committed_epoch() is None else _header(table)
    if table is None or before is None:
        raise OutputError(f"the prompts disappeared: {table_uri(output, 'prompts')}")
    is_older = prompts.num_rows and pc.min(prompts["image_id"]).as_py() < before.num_images
    if before.generation != generation or before.num_images >= num_images or is_older:
        raise FencedError(f"another run added prompts to {table.uri} meanwhile; the same command looks again")
    epoch = take_prompts_epoch(table)
    return _append(table, _sorted(prompts), source, num_images, generation, epoch=epoch, before=before)


def copy_prompts(
    output: str, header: Prompts, parts: Iterable[pa.Table], num_images: int, storage_options: StorageOptions
) -> None:
    """Freeze prompts that another run has, in one transaction.

    Args:
        output: folder of the new run, without prompts.
        header: of the other run; source and sha256 are kept.
        parts: rows of PROMPTS_SCHEMA with ids of the new run, ascending; those of an image are in one part.
        num_images: in the plan of the new run.
        storage_options: of fsspec.

    Raises:
        FencedError: another start froze prompts meanwhile.
        OutputError: the place cannot be written.
    """
    table = FencedTable.open(output, "prompts", storage_options) or FencedTable.create(
        output, "prompts", {}, storage_options
    )
    per_group = _MASK_ROWS_PER_GROUP if header.max_masks else _ROWS_PER_GROUP
    files, num_prompts, num_regions, max_prompts, max_masks = [], 0, 0, 0, 0
    for rows in parts:
        of_file, most = _counted(rows.filter(pc.equal(rows["role"], "prompt")))
        num_prompts, num_regions = num_prompts + of_file, num_regions + rows.num_rows - of_file
        max_prompts = max(max_prompts, most)
        max_masks = max(max_masks, _counted(rows.filter(rows["mask_input"].is_valid()))[1])
        files.append(table.put(rows, row_group_size=per_group))
    copied = replace(
        header,
        num_images=num_images,
        num_prompts=num_prompts,
        num_regions=num_regions,
        max_prompts=max_prompts,
        max_masks=max_masks,
        generation=1,
    )
    _commit(table, files, asdict(copied) | {"source": json.dumps(header.source)}, epoch=1)


def take_prompts_epoch(table: FencedTable) -> int:
    """Fence other writers of frozen prompts; see FencedTable.take_epoch.

    The commit repeats what is frozen: in tables of earlier versions delta-rs deletes old log entries.
    """
    return table.take_epoch({"prompts": json.dumps(_said(table))})


def _append(
    table: FencedTable,
    rows: pa.Table,
    source: Source,
    num_images: int,
    generation: int,
    *,
    epoch: int,
    before: Prompts | None,
) -> Prompts:
    """Commit rows as prompts: beside those that `before` describes, or in place of all if it is None."""
    is_prompt, has_mask = pc.equal(rows["role"], "prompt"), rows["mask_input"].is_valid()
    num_prompts, max_prompts = _counted(rows.filter(is_prompt))
    num_masks, max_masks = _counted(rows.filter(has_mask))
    per_file, per_group = (
        (_MASK_ROWS_PER_FILE, _MASK_ROWS_PER_GROUP) if num_masks else (_ROWS_PER_FILE, _ROWS_PER_GROUP)
    )
    summary = {
        "generation": generation,
        "sha256": before.sha256 if before else _sha256(rows, per_group),
        "source": json.dumps(source),
        "num_images": num_images,
        "num_prompts": num_prompts + (before.num_prompts if before else 0),
        "num_regions": rows.num_rows - num_prompts + (before.num_regions if before else 0),
        "max_prompts": max(max_prompts, before.max_prompts if before else 0),
        "max_masks": max(max_masks, before.max_masks if before else 0),
    }
    files = [table.put(part, row_group_size=per_group) for part in _parts(rows, per_file)]
    _commit(table, files, summary, epoch, [] if before else committed_files(table.snapshot))
    header = _header(table)
    assert header is not None, "it was just committed"
    return header


def _commit(
    table: FencedTable,
    files: Sequence[DataFile],
    said: Mapping[str, Any],
    epoch: int,
    replaced: Sequence[DataFile] = (),
) -> None:
    table.commit(files, epoch=epoch, replaced=replaced, custom_metadata={"prompts": json.dumps(said)})


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


def _said(table: FencedTable) -> dict[str, Any]:
    """What the newest commit says of the prompts: a generation, and what of Prompts there is for it."""
    said: dict[str, Any] = json.loads(table.committed_metadata("prompts") or "{}")
    return {"generation": 1} | said


def _header(table: FencedTable) -> Prompts | None:
    said = _said(table)
    said.pop("announced", None)
    return Prompts(**said | {"source": json.loads(said["source"])}) if "sha256" in said else None


def _sha256(prompts: pa.Table, at_once: int) -> str:
    """Hash of the rows, however they are divided into chunks; only `at_once` rows are copied at a time."""
    digest = hashlib.sha256()
    for start in range(0, prompts.num_rows, at_once):
        (rows,) = prompts.slice(start, at_once).combine_chunks().to_batches()
        digest.update(rows.serialize())
    return digest.hexdigest()
