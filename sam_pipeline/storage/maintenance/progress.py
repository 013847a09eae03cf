"""How far a run has come, from storage alone: once, or again and again while it runs."""

from __future__ import annotations

import json
import time
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from sam_pipeline.config.fingerprint import filters_of
from sam_pipeline.errors import OutputError
from sam_pipeline.storage.layout import run_id, table_uri
from sam_pipeline.storage.maintenance.status import count_values, first_position, read_row
from sam_pipeline.storage.objects.filesystem import StorageOptions
from sam_pipeline.storage.objects.retrying import retried
from sam_pipeline.storage.tables.delta import DataFile, committed_files, open_table, output_errors, table_metadata
from sam_pipeline.storage.tables.delta_place import Table
from sam_pipeline.storage.tables.plan import Plan, read_plan
from sam_pipeline.storage.tables.prompts import read_prompts_header
from sam_pipeline.storage.tables.reading.table_reading import read_columns
from sam_pipeline.storage.tables.start_records import Start, newest_start

# Commits further apart than this belong to different starts, or to a run that stood still.
_PAUSE_S = 1800
_RATE_COMMITS = 50
# Entries of the log, of which compaction and other starts have some too.
_RATE_ENTRIES = 500
# As long as a start waits by default before it fails as stalled.
_STALLED_S = 600


@dataclass(frozen=True)
class ErrorKind:
    """Images that failed in one way, or prompts or regions that were not used."""

    kind: str
    """A status, "prompt" or "region"."""
    num: int
    example: str
    """Of one of them: the URI of its image and the error."""


@dataclass(frozen=True)
class RunState:
    """What a results table holds."""

    num_by_status: Counter[str]
    num_masks: int
    commits: list[tuple[float, int]]
    """(Unix time in seconds, images) of the latest commits of shards, oldest first."""
    filters: list[dict[str, Any]] = field(default_factory=list)
    """See config.fingerprint.filters_of."""
    num_unusable: Counter[str] = field(default_factory=Counter)
    """Prompts and regions that were not used, by role."""
    errors: tuple[ErrorKind, ...] = ()
    """The most frequent first."""
    newest_start: Start | None = None
    """Of annotate; None where no start has left a record."""

    def recent_rate(self) -> float | None:
        """Images a second over the last commits of one working period; None before there are two."""
        recent = self.commits[-1:]
        for commit in reversed(self.commits[:-1]):
            if recent[0][0] - commit[0] > _PAUSE_S or len(recent) > _RATE_COMMITS:
                break
            recent.insert(0, commit)
        if len(recent) < 2 or recent[-1][0] <= recent[0][0]:
            return None
        # What the first commit of the period holds was made before the period began.
        return sum(count for _, count in recent[1:]) / (recent[-1][0] - recent[0][0])


@dataclass(frozen=True)
class Progress:
    """A run at the time of a look."""

    plan: Plan
    num_planned_prompts: Mapping[str, int]
    """Prompts and regions by role; empty where the run has none."""
    state: RunState | None
    """None before the first start."""
    looked_s: float
    """Unix time of the look, in seconds."""

    @property
    def num_done(self) -> int:
        """Images that have a row."""
        return 0 if self.state is None else self.state.num_by_status.total()

    @property
    def num_left(self) -> int:
        """Images that have none."""
        return self.plan.num_images - self.num_done

    @property
    def rate(self) -> float | None:
        """Images a second; see RunState.recent_rate."""
        return None if self.state is None else self.state.recent_rate()

    @property
    def eta_s(self) -> float | None:
        """Seconds that the rest takes at this rate."""
        return self.num_left / self.rate if self.num_left and self.rate else None

    @property
    def last_commit_age_s(self) -> float | None:
        """Seconds since images were committed; by the clocks of the driver and of this machine."""
        if self.state is None or not self.state.commits:
            return None
        return max(0.0, self.looked_s - self.state.commits[-1][0])

    @property
    def is_stalled(self) -> bool:
        """Whether images are left, and none was committed for ten minutes."""
        return bool(self.num_left) and (self.last_commit_age_s or 0) > _STALLED_S

    def to_dict(self) -> dict[str, Any]:
        """All of it, fit for JSON."""
        state = self.state or RunState(Counter(), 0, [])
        return {
            "output": self.plan.output,
            "run_id": run_id(self.plan.output),
            "input": self.plan.input,
            "num_images": self.plan.num_images,
            "num_done": self.num_done,
            "num_left": self.num_left,
            "num_by_status": dict(state.num_by_status),
            "num_masks": state.num_masks,
            "num_prompts": dict(self.num_planned_prompts),
            "num_unusable_prompts": dict(state.num_unusable),
            "images_per_s": self.rate,
            "eta_s": self.eta_s,
            "last_commit_age_s": self.last_commit_age_s,
            "is_stalled": self.is_stalled,
            "errors": [asdict(error) for error in state.errors],
            "filters": state.filters,
            "newest_start": None if state.newest_start is None else state.newest_start.to_dict(),
        }


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
        plan = read_plan(self._output, self._options)
        if plan is None:
            raise OutputError(f"no plan in {self._output}")
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
        if self._table is None:
            self._table = open_table(table_uri(self._output, "masks"), self._options)
            return self._table is not None
        with output_errors(self._table.uri):
            retried(self._table.update_incremental, what=f"read {self._table.uri}", denied_is_final=False)
        return True

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
        # Whoever looks, a command or a script, may end right after it.
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
            for entry in reversed(entries)
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
