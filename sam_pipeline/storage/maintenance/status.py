"""How a run came out: which images and prompts succeeded, with an example of one that did not."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sam_pipeline.storage.objects.filesystem import StorageOptions
from sam_pipeline.storage.tables.delta import DataFile, committed_files
from sam_pipeline.storage.tables.delta_place import Table
from sam_pipeline.storage.tables.prompts import Prompts
from sam_pipeline.storage.tables.reading.prompt_reading import count_prompts
from sam_pipeline.storage.tables.reading.table_reading import file_opener, read_columns, read_file
from sam_pipeline.storage.tables.results import open_results


@dataclass(frozen=True)
class Outcome:
    """What the rows of a run say."""

    output: str
    num_by_status: Mapping[str, int]
    num_masks: int
    failure: str = ""
    """The URI and the error of one image that failed."""
    num_planned: Mapping[str, int] = field(default_factory=dict)
    """Prompts and regions by role, prompt or region."""
    num_unusable: Mapping[str, int] = field(default_factory=dict)
    """Prompts and regions in prompt_errors, by role."""
    num_answered: int = 0
    """Prompts that have a mask."""
    unusable: str = ""
    """The URI of one image with such a prompt, and the error."""

    @property
    def num_images(self) -> int:
        """Images that have a row."""
        return sum(self.num_by_status.values())

    @property
    def total_failure(self) -> str | None:
        """One line if no image, or no prompt, came through; else None."""
        if self.num_images and not self.num_by_status.get("ok"):
            return f"none of the {self.num_images} images could be annotated: {self._failed_images()}"
        if self.num_planned.get("prompt") and not self.num_answered:
            num_unusable = self.num_unusable.get("prompt", 0)
            why = f"{num_unusable} unusable, such as {self.unusable}" if num_unusable else "their images failed"
            return (
                f"none of the {self.num_planned['prompt']} prompts has a mask: {why}; give others with another --output"
            )
        return None

    @property
    def partial_failure(self) -> str | None:
        """One line on what failed beside what succeeded; None if nothing did."""
        parts = []
        if self.num_images > self.num_by_status.get("ok", 0):
            num_failed = self.num_images - self.num_by_status.get("ok", 0)
            parts.append(f"{num_failed} of {self.num_images} images failed: {self._failed_images()}")
        unusable = ((role, count) for role, count in self.num_unusable.items() if count)
        not_used = [f"{count} of {self.num_planned[role]} {role}s" for role, count in unusable]
        if not_used:
            parts.append(f"{' and '.join(not_used)} were not used, such as {self.unusable}")
        return "; ".join(parts) or None

    def _failed_images(self) -> str:
        failed = sorted({*self.num_by_status} - {"ok"}, key=lambda name: (-self.num_by_status[name], name))
        counts = ", ".join(f"{self.num_by_status[name]} {name}" for name in failed)
        retry = f"sam-pipeline retry {shlex.quote(self.output)} --status {' '.join(failed)}"
        remedy = f"{counts}, such as {self.failure}; `{retry}` lets the next annotate do them again"
        if "changed" in failed:  # the plan has the size and ETag that they had
            remedy += "; for changed ones give it --extend, --redo-changed and --input"
        return remedy


def count_results(table: Table, storage_options: StorageOptions) -> tuple[Counter[str], int]:
    """Count rows by status, and masks, of a snapshot of the results. Opens every file."""
    num_by_status: Counter[str] = Counter()
    num_masks = 0
    # Without pre_buffer, because the process may end right after counting; see file_opener.
    for rows in read_columns(table, ["status", "num_masks"], storage_options, pre_buffer=False):
        num_by_status += count_values(rows["status"])
        num_masks += pc.sum(rows["num_masks"]).as_py() or 0
    return num_by_status, num_masks


def count_values(column: pa.ChunkedArray) -> Counter[str]:
    """How often each value of a column is there."""
    counts = pc.value_counts(column)
    return Counter(dict(zip(counts.field("values").to_pylist(), counts.field("counts").to_pylist(), strict=True)))


def read_outcome(output: str, prompts: Prompts | None, num_images: int, storage_options: StorageOptions) -> Outcome:
    """Read how a run came out, from small columns of all its files.

    Args:
        output: folder of the run.
        prompts: those that it has.
        num_images: in the plan.
        storage_options: of fsspec.

    Raises:
        OutputError: there are no results, or they cannot be read.
        StorageUnavailableError: storage did not answer.
    """
    table = open_results(output, storage_options)
    columns = ["image_id", "status", "num_masks", *([] if prompts is None else ["prompt_errors"])]
    num_by_status: Counter[str] = Counter()
    num_unusable: Counter[str] = Counter()
    num_masks = 0
    failed: tuple[DataFile, int] | None = None
    unusable: tuple[DataFile, int] | None = None
    is_ok = np.zeros(num_images if prompts is not None else 0, bool)
    tables = read_columns(table, columns, storage_options, pre_buffer=False)
    for file, of_file in zip(committed_files(table), tables, strict=True):
        # Another start may have added images to the plan, and done them.
        is_planned = pc.less(of_file["image_id"], num_images)
        rows = of_file.filter(is_planned)
        num_by_status += count_values(rows["status"])
        num_masks += pc.sum(rows["num_masks"]).as_py() or 0
        failed = failed or _first(file, pc.and_(is_planned, pc.not_equal(of_file["status"], "ok")))
        if prompts is not None:
            num_unusable += count_values(pc.struct_field(pc.list_flatten(rows["prompt_errors"]), "role"))
            unusable = unusable or _first(file, pc.and_(is_planned, of_file["prompt_errors"].is_valid()))
            is_ok[rows.filter(pc.equal(rows["status"], "ok"))["image_id"].to_numpy()] = True
    failure = "" if failed is None else _example(table, *failed, "error", storage_options)
    if prompts is None:
        return Outcome(output, num_by_status, num_masks, failure)
    # Each prompt of an image that is ok has a mask or an error; those of the others have neither.
    num_asked = int(count_prompts(output, num_images, storage_options)[is_ok].sum())
    return Outcome(
        output,
        num_by_status,
        num_masks,
        failure,
        {"prompt": prompts.num_prompts, "region": prompts.num_regions},
        num_unusable,
        num_asked - num_unusable["prompt"],
        "" if unusable is None else _example(table, *unusable, "prompt_errors", storage_options),
    )


def first_position(is_wanted: pa.ChunkedArray) -> int:
    """Where in a column of booleans the first True is; -1 if nowhere."""
    position: int = pc.index(is_wanted, True).as_py()
    return position


def read_row(
    table: Table, file: DataFile, position: int, columns: Sequence[str], storage_options: StorageOptions
) -> dict[str, Any]:
    """Some columns of one row of a file."""
    open_file = file_opener(table, [file], storage_options, pre_buffer=False)
    (row,) = read_file(table, file, open_file, columns).slice(position, 1).to_pylist()
    return dict(row)


def _first(file: DataFile, is_wanted: pa.ChunkedArray) -> tuple[DataFile, int] | None:
    position = first_position(is_wanted)
    return None if position < 0 else (file, position)


def _example(table: Table, file: DataFile, position: int, column: str, storage_options: StorageOptions) -> str:
    """The URI of a row, and its error, or that of its first prompt."""
    row = read_row(table, file, position, ["uri", column], storage_options)
    error = row[column] if isinstance(row[column], str) else row[column][0]["error"]
    return f"{row['uri']}: {error}"
