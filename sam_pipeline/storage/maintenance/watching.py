"""Looking at a run from storage alone: once, or again and again while it runs."""

from __future__ import annotations

import json
import time
from collections import Counter, deque
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from sam_pipeline.config.fingerprint import filters_of
from sam_pipeline.errors import OutputError
from sam_pipeline.storage.layout import table_uri
from sam_pipeline.storage.maintenance.progress import ErrorKind, Progress, RunState
from sam_pipeline.storage.maintenance.status import count_values, first_position, read_row
from sam_pipeline.storage.objects.filesystem import StorageOptions
from sam_pipeline.storage.objects.retrying import retried
from sam_pipeline.storage.tables.delta import DataFile, committed_files, open_table, output_errors, table_metadata
from sam_pipeline.storage.tables.delta_place import Table
from sam_pipeline.storage.tables.plan import existing_plan
from sam_pipeline.storage.tables.prompts import read_prompts_header
from sam_pipeline.storage.tables.reading.table_reading import read_columns
from sam_pipeline.storage.tables.start_records import newest_start

# Entries of the log that the rate may need: compaction and other starts have some too.
_RATE_ENTRIES = 500


@dataclass(frozen=True)
class _FileCounts:
    """What a file of results holds."""

    num_by_status: Counter[str]
    num_masks: int
    num_unusable: Counter[str]
    first_by_kind: dict[str, int]
    """Position of the first row of each kind of error."""


class RunWatch:
    """Looks at a run. What was read of a file is remembered: a committed file never changes.

    Args:
        output: folder of the run, as absolute_uri makes it.
        storage_options: of fsspec.
    """

    def __init__(self, output: str, storage_options: StorageOptions) -> None:
        self._output, self._options = output, storage_options
        self._has_plan = False
        self._forget()

    def _forget(self) -> None:
        self._table: Table | None = None
        self._counts: dict[str, _FileCounts] = {}
        self._examples: dict[str, tuple[str, str]] = {}
        self._commits: deque[tuple[float, int]] = deque(maxlen=_RATE_ENTRIES)
        self._num_entries = 0

    def look(self) -> Progress:
        """Read what is new since the last look. The first look opens every file.

        Raises:
            OutputError: there is no plan, or something cannot be read.
            StorageUnavailableError: storage did not answer.
        """
        # Before the plan: another start may extend the plan and add rows to the results.
        has_results = self._open_results()
        plan = existing_plan(self._output, self._options, denied_is_final=not self._has_plan)
        self._has_plan = True
        prompts = read_prompts_header(self._output, self._options, plan.generation) if has_results else None
        num_planned = {} if prompts is None else {"prompt": prompts.num_prompts, "region": prompts.num_regions}
        state = self._state(has_prompts=prompts is not None) if has_results else None
        return Progress(plan, num_planned, state, time.time())

    def read_state(self, *, has_prompts: bool) -> RunState | None:
        """Read the results alone; None where no run has started.

        Args:
            has_prompts: whether prompts that were not used are to be counted.

        Raises:
            OutputError, StorageUnavailableError: as in look.
        """
        return self._state(has_prompts=has_prompts) if self._open_results() else None

    def _open_results(self) -> bool:
        """Have the newest version of the results; False where there are none."""
        if self._table is not None:
            try:
                self._update(self._table)
                return True
            except OutputError:
                self._forget()  # somebody may have removed the output, and begun it again: the log is shorter
        self._table = open_table(table_uri(self._output, "masks"), self._options, denied_is_final=not self._has_plan)
        return self._table is not None

    @staticmethod
    def _update(table: Table) -> None:
        with output_errors(table.uri):
            retried(table.update_incremental, what=f"read {table.uri}", denied_is_final=False)

    def _state(self, *, has_prompts: bool) -> RunState:
        assert self._table is not None, "called with results"
        metadata = table_metadata(self._table)  # raises for a table of another program, which has other columns
        files = committed_files(self._table)
        self._read_new(self._table, files, has_prompts=has_prompts)
        counts = [self._counts[file.path] for file in files]
        num_by_status = sum((each.num_by_status for each in counts), Counter[str]())
        num_unusable = sum((each.num_unusable for each in counts), Counter[str]())
        num_by_kind = num_by_status + num_unusable
        kinds = sorted({*num_by_kind} - {"ok"}, key=lambda kind: (-num_by_kind[kind], kind))
        errors = [ErrorKind(kind, num_by_kind[kind], self._example(self._table, files, kind)) for kind in kinds]
        self._read_commits(self._table)
        return RunState(
            num_by_status,
            sum(each.num_masks for each in counts),
            list(self._commits),
            filters_of(json.loads(metadata["fingerprint"])),
            num_unusable,
            tuple(errors),
            newest_start(metadata),
        )

    def _read_new(self, table: Table, files: list[DataFile], *, has_prompts: bool) -> None:
        """Count the files that are new, and forget those that are gone."""
        new = [file for file in files if file.path not in self._counts]
        columns = ["status", "num_masks", *(["prompt_errors"] if has_prompts else [])]
        # Without pre_buffer, because the process may end right after this look; see file_opener.
        tables = read_columns(table, columns, self._options, files=new, pre_buffer=False)
        self._counts |= {file.path: _counts_of(rows) for file, rows in zip(new, tables, strict=True)}
        self._counts = {file.path: self._counts[file.path] for file in files}

    def _example(self, table: Table, files: list[DataFile], kind: str) -> str:
        """An example of an error, the same in each look as long as its file is there."""
        path, example = self._examples.get(kind, ("", ""))
        if path in self._counts:
            return example
        file = next(file for file in files if kind in self._counts[file.path].first_by_kind)
        is_of_prompt = kind in self._counts[file.path].num_unusable
        position = self._counts[file.path].first_by_kind[kind]
        row = read_row(table, file, position, ["uri", "prompt_errors" if is_of_prompt else "error"], self._options)
        if is_of_prompt:
            row["error"] = next(each["error"] for each in row["prompt_errors"] if each["role"] == kind)
        example = f"{row['uri']}: {row['error']}"
        self._examples[kind] = file.path, example
        return example

    def _read_commits(self, table: Table) -> None:
        num_new = min(table.version() + 1 - self._num_entries, _RATE_ENTRIES)
        if num_new <= 0:
            return
        with output_errors(table.uri):
            entries = retried(lambda: table.history(num_new), what=f"read {table.uri}", denied_is_final=False)
        self._commits.extend(
            (entry["timestamp"] / 1000, int(entry["num_images"]))
            # Newest first, and those after our version too: the next look reads them.
            for entry in reversed(entries[-num_new:])
            if "num_images" in entry
        )
        self._num_entries = table.version() + 1


def read_state(output: str, storage_options: StorageOptions) -> RunState | None:
    """Read what the results hold, without prompts; None if no run has started. Opens every file."""
    return RunWatch(output, storage_options).read_state(has_prompts=False)


def _counts_of(rows: pa.Table) -> _FileCounts:
    num_by_status = count_values(rows["status"])
    first = {kind: first_position(pc.equal(rows["status"], kind)) for kind in num_by_status}
    num_unusable: Counter[str] = Counter()
    if "prompt_errors" in rows.column_names:
        by_row = rows["prompt_errors"]
        num_unusable = count_values(pc.struct_field(pc.list_flatten(by_row), "role"))
        parents = pc.list_parent_indices(by_row.combine_chunks())
        roles = pc.struct_field(pc.list_flatten(by_row.combine_chunks()), "role")
        first |= {role: parents[first_position(pc.equal(roles, role))].as_py() for role in num_unusable}
    return _FileCounts(num_by_status, pc.sum(rows["num_masks"]).as_py() or 0, num_unusable, first)
