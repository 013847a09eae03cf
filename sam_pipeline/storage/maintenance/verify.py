"""Checking a finished output: every file as it was written, every planned image exactly once, every mask sound."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pycocotools import mask as coco_mask

from sam_pipeline.config.fingerprint import filter_command, filters_of
from sam_pipeline.errors import DamagedFileError, OutputError
from sam_pipeline.safety.clean_text import one_line
from sam_pipeline.storage.objects.filesystem import StorageOptions
from sam_pipeline.storage.tables.delta import DataFile, committed_files, table_metadata
from sam_pipeline.storage.tables.delta_place import Table
from sam_pipeline.storage.tables.plan import Plan, existing_plan, iterate_planned, open_planned_results
from sam_pipeline.storage.tables.reading.prompt_reading import count_prompts
from sam_pipeline.storage.tables.reading.table_reading import checked_opener, read_checked
from sam_pipeline.storage.tables.results import MaskTable
from sam_pipeline.storage.tables.schema import MASKS_SCHEMA, STATUSES

_MAX_PROBLEMS = 20
_PLANNED_AT_ONCE = 100_000
# Rows as Python objects: 64 with a hundred masks each are some 20 MB.
_ROWS_AT_ONCE = 64


@dataclass
class Verification:
    """What was checked and what is wrong."""

    num_planned: int
    num_rows: int = 0
    num_masks: int = 0
    num_left: int = 0
    """Planned images that the run has not come to: annotate does them."""
    num_lost: int = 0
    """Planned images whose committed row cannot be read any more."""
    num_twice: int = 0
    num_bad_masks: int = 0
    """Problems of rows, masks and files; one row may have several."""
    filters: list[dict[str, Any]] = field(default_factory=list)
    """See config.fingerprint.filters_of."""
    damaged_files: list[DataFile] = field(default_factory=list)
    """Shards that are missing, or are not as they were written."""
    unsound_ids: set[int] = field(default_factory=set)
    """image_id of rows with something wrong in them, and of those that there are twice."""
    problems: list[str] = field(default_factory=list)
    """The first problems found, one line each."""

    @property
    def is_repairable(self) -> bool:
        """Whether retry_damaged has something to do."""
        return bool(self.damaged_files or self.unsound_ids) and not self.filters

    @property
    def ok(self) -> bool:
        """True when nothing is left, lost, doubled, or unsound."""
        return not (self.num_left or self.num_lost or self.num_twice or self.num_bad_masks)

    def note(self, problem: str) -> None:
        """Keep a problem's description if there is room for it."""
        if len(self.problems) < _MAX_PROBLEMS:
            self.problems.append(problem)


def verify(output: str, storage_options: StorageOptions) -> Verification:
    """Read a whole output and check it against its plan.

    Raises:
        OutputError: there is no plan, the results are of another program, or a file of the plan or of the prompts is
            damaged.
        StorageUnavailableError: storage did not answer.
    """
    plan, table = open_planned_results(output, storage_options)
    if table is None:
        result = Verification(plan.num_images, num_left=plan.num_images)
        result.note(_left(output, result))
        return result
    return _check(plan, table, storage_options)


def retry_damaged(output: str, storage_options: StorageOptions) -> int:
    """Delete what verify finds missing, damaged or unsound, so that the next start does its images again.

    A shard that cannot be fetched for another reason (no permission, for one) is kept.

    Returns:
        The number of rows.

    Raises:
        OutputError: as verify.
        FencedError: a later start took over.
        StorageUnavailableError: storage did not answer.
    """
    results = MaskTable.stop_runs(output, storage_options)
    found = _check(existing_plan(output, storage_options), results.snapshot, storage_options)
    results.drop(found.damaged_files)
    num_dropped = sum(file.num_rows for file in found.damaged_files)
    return num_dropped + results.delete_images(np.array(sorted(found.unsound_ids), np.int64))


def _check(plan: Plan, table: Table, storage_options: StorageOptions) -> Verification:
    # Raises for a table of another program.
    filters = filters_of(json.loads(table_metadata(table)["fingerprint"]))
    result = Verification(plan.num_images, filters=filters)
    uri_hashes = _uri_hashes(plan, storage_options)
    num_prompts = count_prompts(plan.output, plan.num_images, storage_options)
    seen = np.zeros(plan.num_images, dtype=np.uint8)
    open_file = checked_opener(table, storage_options)
    files = committed_files(table)
    for file in files:
        try:
            for rows in read_checked(file, open_file, MASKS_SCHEMA):
                _check_rows(rows, seen, uri_hashes, num_prompts, result)
        except OutputError as error:
            if isinstance(error, DamagedFileError):
                result.damaged_files.append(file)
            result.num_bad_masks += 1
            result.note(f"{error}; it holds {file.num_rows} images")
    num_missing = int((seen == 0).sum())
    # What is committed and cannot be read is lost; an image that was never committed is only left to do.
    result.num_lost = min(num_missing, sum(file.num_rows for file in files) - result.num_rows)
    result.num_left = num_missing - result.num_lost
    result.num_twice = int((seen == 2).sum())
    result.unsound_ids.update(np.flatnonzero(seen == 2).tolist())
    for image_id in np.flatnonzero(seen == 2)[:3]:
        result.note(f"image {image_id} has more than one row")
    if result.num_left:
        result.note(_left(plan.output, result))
    else:
        for image_id in np.flatnonzero(seen == 0)[:3]:
            result.note(f"image {image_id} has lost its row")
    return result


def _left(output: str, result: Verification) -> str:
    if result.filters:
        command = filter_command(result.filters[-1], output)
    else:
        command = f"sam-pipeline annotate --output {shlex.quote(output)}"
    return f"left to do: {result.num_left} of {result.num_planned} images; {command} goes on with them"


def _uri_hashes(plan: Plan, storage_options: StorageOptions) -> npt.NDArray[np.int64]:
    """Hashes of planned URIs, good for this process: 8 bytes an image, where the URIs would take a hundred."""
    hashes = np.zeros(plan.num_images, dtype=np.int64)
    for planned in iterate_planned(plan, ["image_id", "uri"], storage_options, is_checked=True):
        for batch in planned.to_batches(max_chunksize=_PLANNED_AT_ONCE):
            hashes[batch["image_id"].to_numpy()] = [hash(uri) for uri in batch["uri"].to_pylist()]
    return hashes


def _check_rows(
    rows: pa.Table,
    seen: npt.NDArray[np.uint8],
    uri_hashes: npt.NDArray[np.int64],
    num_prompts: npt.NDArray[np.int64],
    result: Verification,
) -> None:
    for batch in rows.to_batches(max_chunksize=_ROWS_AT_ONCE):
        for row in batch.to_pylist():
            result.num_rows += 1
            result.num_masks += len(row["masks"])
            image_id = row["image_id"]
            if not 0 <= image_id < len(seen):
                result.num_bad_masks += 1
                result.unsound_ids.add(image_id)
                result.note(f"image_id {image_id} is not in the plan")
                continue
            seen[image_id] = min(seen[image_id] + 1, 2)
            problems = list(_row_problems(row))
            if hash(row["uri"]) != uri_hashes[image_id]:
                problems.append("the plan has another uri for this image_id")
            answered, planned = _num_answered(row), int(num_prompts[image_id])
            # The masks of some may have been dropped by a filter.
            if row["status"] == "ok" and (answered > planned if result.filters else answered != planned):
                problems.append(f"{answered} prompts are answered, {planned} were planned")
            if problems:
                result.unsound_ids.add(image_id)
            for problem in problems:
                result.num_bad_masks += 1
                result.note(f"image {image_id} ({row['uri']}): {problem}")


def _row_problems(row: dict[str, Any]) -> Iterator[str]:
    if row["status"] not in STATUSES:
        yield f"there is no status {row['status']!r}"
    if row["num_masks"] != len(row["masks"]):
        yield f"num_masks is {row['num_masks']} but there are {len(row['masks'])} masks"
    if row["status"] == "ok" and (row["error"] or None in (row["height"], row["width"])):
        yield "status ok needs a height and a width, and no error"
    if row["status"] != "ok" and (row["masks"] or not row["error"]):
        yield f"status {row['status']} needs an error and no masks"
    for index, mask in enumerate(row["masks"]):
        # Before decoding, which allocates what the size asks for.
        if mask["segmentation"]["size"] != [row["height"], row["width"]]:
            yield f"mask {index} has size {mask['segmentation']['size']}, the image {row['height']}x{row['width']}"
            continue
        try:
            pixels = coco_mask.decode(mask["segmentation"])
        except Exception as error:  # noqa: BLE001  pycocotools raises several types on malformed counts
            yield f"mask {index} does not decode: {one_line(error)}"
            continue
        if int(pixels.sum()) != mask["area"]:
            yield f"mask {index} has {int(pixels.sum())} pixels, its area says {mask['area']}"
        elif (bbox := _bbox(pixels)) != mask["bbox"]:
            yield f"mask {index} spans {bbox}, its bbox says {mask['bbox']}"


def _num_answered(row: dict[str, Any]) -> int:
    """Prompts that have a mask, or an error that says why not."""
    refused = [error for error in row["prompt_errors"] or () if error["role"] == "prompt"]
    answers = [mask for mask in row["masks"] if mask["prompt_id"] is not None]
    return len(refused) + len(answers)


def _bbox(pixels: Any) -> list[int]:
    """[x, y, w, h] with w and h from first to last pixel; zeros for an empty mask, as the official generator does."""
    columns, rows = np.flatnonzero(pixels.any(axis=0)), np.flatnonzero(pixels.any(axis=1))
    if not len(columns):
        return [0, 0, 0, 0]
    return [int(columns[0]), int(rows[0]), int(columns[-1] - columns[0]), int(rows[-1] - rows[0])]
