"""The results table OUTPUT/masks: workers put shards, the driver alone commits them, each start fences the last.

Life of a start: open or create the table, compare fingerprints, take the next epoch, read which ids are committed,
then commit shards until nothing is left and compact them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sam_pipeline.config.fingerprint import idle_settings
from sam_pipeline.errors import ConfigError, FingerprintMismatchError, OutputError
from sam_pipeline.storage.objects.filesystem import StorageOptions, join_uri
from sam_pipeline.storage.objects.retrying import retried
from sam_pipeline.storage.tables.delta import (
    DataFile,
    change_metadata,
    commit_files,
    committed_epoch,
    committed_files,
    confirm_epoch,
    create_table,
    open_table,
    output_errors,
    put_parquet,
    table_id,
    table_metadata,
    take_epoch,
)
from sam_pipeline.storage.tables.delta_place import Table
from sam_pipeline.storage.tables.rewriting import ROWS_PER_GROUP, Rewriter
from sam_pipeline.storage.tables.schema import MASKS_SCHEMA, STATUSES
from sam_pipeline.storage.tables.table_reading import read_columns

# Commits further apart than this belong to different starts, or to a run that stood still.
_PAUSE_S = 1800
_RATE_COMMITS = 50
# Entries of the log, of which compaction and other starts have some too.
_RATE_ENTRIES = 500

Fingerprint = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Shard:
    """A file of results that was put, and what the driver wants to know of it without reading it."""

    file: DataFile
    image_ids: npt.NDArray[np.int64]
    """(rows,) of the rows, so that the driver commits no image twice."""


@dataclass(frozen=True)
class RunState:
    """What a results table holds, read from storage alone."""

    num_by_status: Counter[str]
    num_masks: int
    commits: list[tuple[float, int]]
    """(Unix time in seconds, images) of the latest commits of shards, oldest first."""

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
class RunHeader:
    """What the log alone says of a results table: cheap however many files there are."""

    num_images: int
    """Committed rows."""
    metadata: dict[str, str]


def put_shard(output: str, rows: pa.Table, options: StorageOptions, *, table_id: str) -> Shard:
    """Write result rows as one shard. Called by workers; nothing is visible before the driver commits it.

    Args:
        output: folder of the run.
        rows: of MASKS_SCHEMA, in any order.
        options: storage options.
        table_id: MaskTable.id.
    """
    rows = rows.select(MASKS_SCHEMA.names).cast(MASKS_SCHEMA).sort_by("image_id")
    file = put_parquet(join_uri(output, "masks"), rows, options, row_group_size=ROWS_PER_GROUP, table_id=table_id)
    return Shard(file, rows["image_id"].to_numpy())


class MaskTable:
    """The driver's handle on the results: a snapshot, and the epoch under which it may commit.

    Args:
        table: the Delta table.
        epoch: this start's epoch, already committed.
        options: storage options.
    """

    def __init__(self, table: Table, epoch: int, options: StorageOptions) -> None:
        self._table = table
        self.epoch = epoch
        self._options = options

    @classmethod
    def take_over(
        cls, output: str, fingerprint: Fingerprint, metadata: Mapping[str, str], options: StorageOptions
    ) -> MaskTable:
        """Open the results for a run; from here on, every earlier start's commits fail.

        A table without rows has no results: it takes on this run's settings, whatever it was begun with. But its
        columns stay as they are.

        Raises:
            FingerprintMismatchError: the table holds results of other settings, or has the columns of another
                schema_version; nothing was changed.
            FencedError: two starts raced for the same epoch and the other won.
        """
        uri = join_uri(output, "masks")
        table = open_table(uri, options)
        stored = {"fingerprint": json.dumps(fingerprint, sort_keys=True), **metadata}
        if table is None:
            table = create_table(uri, MASKS_SCHEMA, stored, options)
        begun_with = json.loads(table_metadata(table)["fingerprint"])
        if begun_with != dict(fingerprint) and not committed_files(table):
            versions = ({"schema_version": each.get("schema_version")} for each in (begun_with, fingerprint))
            check_fingerprint(*versions)
            epoch = (committed_epoch(table) or 0) + 1
            change_metadata(table, stored, options, epoch=epoch)
            return cls(table, epoch, options)
        check_fingerprint(begun_with, fingerprint)
        return cls(table, take_results_epoch(table, options), options)

    @classmethod
    def stop_runs(cls, output: str, options: StorageOptions) -> MaskTable:
        """Open existing results for anything but a run, whatever its settings; like every start, it fences the others.

        Raises:
            OutputError: there are no results.
            FencedError: another start won the epoch.
        """
        table = open_results(output, options)
        table_metadata(table)  # raises for a table of another program
        return cls(table, take_results_epoch(table, options), options)

    @property
    def id(self) -> str:
        """See storage.delta.table_id."""
        return table_id(self._table)

    @property
    def snapshot(self) -> Table:
        """The version that is committed from, for reading."""
        return self._table

    @property
    def _rewriter(self) -> Rewriter:
        return Rewriter(self._table, self.epoch, self._options)

    def committed_ids(self, num_images: int) -> npt.NDArray[np.bool_]:
        """Which images of a plan have a committed row.

        Args:
            num_images: in the plan. Another start may have extended it since it was read, and have done those images.

        Returns:
            (num_images,) bool, indexed by image_id.
        """
        done = np.zeros(num_images, dtype=bool)
        for rows in read_columns(self._table, ["image_id"], self._options):
            ids = rows["image_id"].to_numpy()
            done[ids[ids < num_images]] = True
        return done

    def commit(self, shards: Sequence[Shard]) -> None:
        """Make shards visible, all or none.

        Raises:
            FencedError: a later start took over.
            OutputError: the log could not be written.
            StorageUnavailableError: storage did not answer; the shards may or may not have become visible.
        """
        files = [shard.file for shard in shards]
        summary = {"num_images": str(sum(file.num_rows for file in files))}
        commit_files(self._table, MASKS_SCHEMA, files, self._options, epoch=self.epoch, custom_metadata=summary)

    def compact(self) -> None:
        """Merge small files; see storage.rewriting for this and for what follows.

        Raises:
            FencedError: a later start took over.
        """
        self._rewriter.compact()

    def delete(self, statuses: Sequence[str]) -> int:
        """Delete the rows with these statuses, so that their images are pending again.

        Returns:
            The number of rows.

        Raises:
            FencedError: a later start took over.
        """
        wanted = pa.array(statuses)
        return self._rewriter.delete(
            committed_files(self._table), ["status"], lambda rows: pc.is_in(rows["status"], wanted).to_numpy()
        )

    def delete_images(self, image_ids: npt.NDArray[np.int64]) -> int:
        """Delete the rows of images, so that these are pending again.

        Args:
            image_ids: (N,) in any order.

        Returns:
            The number of rows.

        Raises:
            FencedError: a later start took over.
        """
        ids = np.sort(image_ids)

        def may_hold(file: DataFile) -> bool:
            return bool(np.searchsorted(ids, file.min_image_id) < np.searchsorted(ids, file.max_image_id, "right"))

        files = [file for file in committed_files(self._table) if may_hold(file)]

        def is_deleted(rows: pa.Table) -> npt.NDArray[np.bool_]:
            # Not np.isin, which would go through all ids for each file.
            found = rows["image_id"].to_numpy()
            nearest = ids[np.searchsorted(ids, found).clip(max=len(ids) - 1)]
            return np.asarray(nearest == found, bool)

        return self._rewriter.delete(files, ["image_id"], is_deleted)

    def drop(self, files: Sequence[DataFile]) -> None:
        """Take committed files out of the table, so that their images are pending again.

        Raises:
            FencedError: a later start took over.
        """
        self._rewriter.drop(files)

    def check_fence(self) -> None:
        """Look whether this is still the latest start.

        Raises:
            FencedError: a later start took over.
        """
        confirm_epoch(self._table, self.epoch)


def take_results_epoch(table: Table, options: StorageOptions) -> int:
    """Fence other writers of results; see storage.delta.take_epoch."""
    return take_epoch(table, MASKS_SCHEMA, options)


def check_fingerprint(stored: Fingerprint, wanted: Fingerprint) -> None:
    """Compare setting by setting; what decides nothing in either is no difference.

    Raises:
        FingerprintMismatchError: naming each setting that differs.
    """
    differences = {
        name: (stored.get(name), wanted.get(name))
        for name in sorted({*stored, *wanted} - idle_settings(stored) - idle_settings(wanted))
        if stored.get(name) != wanted.get(name)
    }
    if differences:
        raise FingerprintMismatchError(differences)


def read_header(output: str, options: StorageOptions) -> RunHeader | None:
    """Read what was begun and how many images are done; None if it never started."""
    table = open_table(join_uri(output, "masks"), options)
    if table is None:
        return None
    metadata = table_metadata(table)  # first: a table of another program has other columns
    return RunHeader(sum(file.num_rows for file in committed_files(table)), metadata)


def read_state(output: str, options: StorageOptions) -> RunState | None:
    """Read how far a run has come, while it runs or after; None if it never started. Opens every file."""
    table = open_table(join_uri(output, "masks"), options)
    if table is None:
        return None
    table_metadata(table)  # raises for a table of another program, which has other columns
    return RunState(*count_results(table, options), _recent_commits(table))


def count_results(table: Table, options: StorageOptions) -> tuple[Counter[str], int]:
    """Count rows by status, and masks, of a snapshot of the results. Opens every file."""
    num_by_status: Counter[str] = Counter()
    num_masks = 0
    # Whoever counts, a command or a script, may end right after it.
    for rows in read_columns(table, ["status", "num_masks"], options, pre_buffer=False):
        num_by_status += count_values(rows["status"])
        num_masks += pc.sum(rows["num_masks"]).as_py() or 0
    return num_by_status, num_masks


def count_values(column: pa.ChunkedArray) -> Counter[str]:
    """How often each value of a column is there."""
    counts = pc.value_counts(column)
    return Counter(dict(zip(counts.field("values").to_pylist(), counts.field("counts").to_pylist(), strict=True)))


def delete_rows(output: str, statuses: Sequence[str], options: StorageOptions) -> int:
    """Delete the rows with these statuses, so that the next run does their images again.

    Killed in between, the same call goes on.

    Returns:
        The number of rows.

    Raises:
        ConfigError: no status, or one that there is not.
        OutputError: there are no results.
        FencedError: a later start took over.
    """
    check_statuses(statuses)
    return MaskTable.stop_runs(output, options).delete(statuses)


def check_statuses(statuses: Sequence[str]) -> None:
    """Refuse what is no status.

    Raises:
        ConfigError: no status, or one that there is not.
    """
    if not statuses or set(statuses) - set(STATUSES):
        raise ConfigError(f"status must be some of {', '.join(STATUSES)}; got {', '.join(statuses) or 'none'}")


def open_results(output: str, options: StorageOptions) -> Table:
    """Open the results for reading.

    Raises:
        OutputError: there are none.
    """
    table = open_table(join_uri(output, "masks"), options)
    if table is None:
        raise OutputError(f"no results in {output}")
    return table


def _recent_commits(table: Table) -> list[tuple[float, int]]:
    with output_errors(table.uri):
        entries = retried(lambda: table.history(_RATE_ENTRIES), what=f"read {table.uri}")
    return [
        (entry["timestamp"] / 1000, int(entry["num_images"])) for entry in reversed(entries) if "num_images" in entry
    ]
