"""The results table OUTPUT/masks: workers put shards, the driver alone commits them, each start fences the last.

Life of a start: open or create the table, compare fingerprints, take the next epoch, read which ids are committed,
then commit shards until nothing is left and compact them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from deltalake import ColumnProperties, DeltaTable, WriterProperties
from deltalake.transaction import CommitProperties

from sam_pipeline.errors import ConfigError, FingerprintMismatchError, OutputError
from sam_pipeline.fingerprint import idle_settings
from sam_pipeline.storage.delta import (
    DataFile,
    check_fence,
    commit_files,
    commit_transaction,
    committed_epoch,
    committed_files,
    create_table,
    open_table,
    output_errors,
    put_parquet,
    remove_files,
    table_metadata,
    unused_files,
)
from sam_pipeline.storage.filesystem import StorageOptions, join_uri
from sam_pipeline.storage.plan_table import unused_plan_files
from sam_pipeline.storage.retrying import retried
from sam_pipeline.storage.schema import MASKS_SCHEMA, STATUSES
from sam_pipeline.storage.table_reading import file_opener, read_columns, read_file

# A merge holds its rows once as Arrow and twice as a file: half a gigabyte.
_COMPACTED_FILE_BYTES = 128 * 2**20
_MERGES_AT_ONCE = 2
# Rows without masks take next to nothing, but readers hold the metadata of each of their groups.
_COMPACTED_FILE_ROWS = 2**18

# A row holds about a hundred masks, 50 KB: groups of this many rows stay near 50 MB uncompressed.
_ROWS_PER_GROUP = 1024

# deltalake 1.6.6 rewrites strings as views, whose least and largest values pyarrow 26 cannot compare: a condition on a
# string would fail in every reader that asks pyarrow.
_WITHOUT_STATISTICS = {
    field.name: ColumnProperties(statistics_enabled="NONE") for field in MASKS_SCHEMA if pa.types.is_string(field.type)
}

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
    num_masks: int
    num_by_status: Mapping[str, int]


@dataclass(frozen=True)
class RunState:
    """What a results table holds, read from storage alone."""

    num_by_status: Counter[str]
    num_masks: int
    commits: list[tuple[float, int]]
    """(Unix time in seconds, images) of the latest commits of shards, oldest first."""
    metadata: dict[str, str]

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


def put_shard(output: str, rows: pa.Table, options: StorageOptions) -> Shard:
    """Write result rows as one shard. Called by workers; nothing is visible before the driver commits it."""
    rows = rows.select(MASKS_SCHEMA.names).cast(MASKS_SCHEMA).sort_by("image_id")
    file = put_parquet(join_uri(output, "masks"), rows, options, row_group_size=_ROWS_PER_GROUP)
    return Shard(
        file=file,
        image_ids=rows["image_id"].to_numpy(),
        num_masks=pa.compute.sum(rows["num_masks"]).as_py(),
        num_by_status=Counter(rows["status"].to_pylist()),
    )


class MaskTable:
    """The driver's handle on the results: a snapshot, and the epoch under which it may commit.

    Args:
        uri: where the Delta table is.
        table: the Delta table.
        epoch: this start's epoch, already committed.
        options: storage options.
    """

    def __init__(self, uri: str, table: DeltaTable, epoch: int, options: StorageOptions) -> None:
        self._uri = uri
        self._table = table
        self.epoch = epoch
        self._options = options

    @classmethod
    def take_over(
        cls, output: str, fingerprint: Fingerprint, metadata: Mapping[str, str], options: StorageOptions
    ) -> MaskTable:
        """Open the results for a run; from here on, every earlier start's commits fail.

        Raises:
            FingerprintMismatchError: the table holds results of other settings; nothing was changed.
            FencedError: two starts raced for the same epoch and the other won.
        """
        uri = join_uri(output, "masks")
        table = open_table(uri, options)
        if table is None:
            stored = {"fingerprint": json.dumps(fingerprint, sort_keys=True), **metadata}
            table = create_table(uri, MASKS_SCHEMA, stored, options)
        check_fingerprint(json.loads(table_metadata(table)["fingerprint"]), fingerprint)
        return cls._with_next_epoch(uri, table, options)

    @classmethod
    def stop_runs(cls, output: str, options: StorageOptions) -> MaskTable:
        """Open existing results for anything but a run, whatever its settings; like every start, it fences the others.

        Raises:
            OutputError: there are no results.
            FencedError: another start won the epoch.
        """
        table = open_results(output, options)
        table_metadata(table)  # raises for a table of another program
        return cls._with_next_epoch(join_uri(output, "masks"), table, options)

    @classmethod
    def _with_next_epoch(cls, uri: str, table: DeltaTable, options: StorageOptions) -> MaskTable:
        # If another start takes an epoch between reading it here and committing the next, that commit conflicts.
        epoch = (committed_epoch(table) or 0) + 1
        commit_files(table, MASKS_SCHEMA, [], options, epoch=epoch)
        return cls(uri, table, epoch, options)

    def committed_ids(self, num_images: int) -> npt.NDArray[np.bool_]:
        """Which planned images have a committed row.

        Returns:
            (num_images,) bool, indexed by image_id.
        """
        done = np.zeros(num_images, dtype=bool)
        for rows in read_columns(self._table, ["image_id"], self._options):
            done[rows["image_id"].to_numpy()] = True
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
        """Merge small files, a few groups to a commit, so that a kill loses little of it.

        The files they replace stay, unseen, until a vacuum. Not by delta-rs, whose compaction no fence holds back: that
        of a superseded start, committed after one of its successor, would leave every row twice.

        Raises:
            FencedError: a later start took over.
            OutputError: a file cannot be read, or the place not be written.
            StorageUnavailableError: storage did not answer.
        """
        groups = list(_mergeable(committed_files(self._table)))
        with ThreadPoolExecutor(_MERGES_AT_ONCE) as pool:
            for start in range(0, len(groups), _MERGES_AT_ONCE):
                part = groups[start : start + _MERGES_AT_ONCE]
                merged = list(pool.map(self._merge, part))
                replaced = [file for group in part for file in group]
                commit_files(
                    self._table,
                    MASKS_SCHEMA,
                    merged,
                    self._options,
                    epoch=self.epoch,
                    replaced=replaced,
                    data_change=False,
                )

    def _merge(self, files: Sequence[DataFile]) -> DataFile:
        open_file = file_opener(self._table, files, self._options)
        parts = [read_file(self._table, file, open_file) for file in files]
        rows = pa.concat_tables([part.select(MASKS_SCHEMA.names).cast(MASKS_SCHEMA) for part in parts])
        return put_parquet(self._uri, rows, self._options, row_group_size=_ROWS_PER_GROUP)

    def delete(self, statuses: Sequence[str]) -> int:
        """Delete the rows with these statuses in one transaction, so that their images are pending again.

        Returns:
            The number of rows.

        Raises:
            FencedError: a later start took over.
        """
        counts = sum(
            (_count_statuses(rows) for rows in read_columns(self._table, ["status"], self._options)), Counter()
        )
        num_rows = sum(counts[status] for status in set(statuses))
        if num_rows:
            names = ", ".join(f"'{status}'" for status in statuses)
            self._delete_where(f"status IN ({names})")
        return num_rows

    def delete_images(self, image_ids: npt.NDArray[np.int64]) -> None:
        """Delete the rows of images, in one transaction, so that they are pending again.

        Raises:
            FencedError: a later start took over.
        """
        self._delete_where(f"image_id IN ({', '.join(map(str, image_ids.tolist()))})")

    def _delete_where(self, predicate: str) -> None:
        writer = WriterProperties(
            compression="ZSTD", max_row_group_size=_ROWS_PER_GROUP, column_properties=_WITHOUT_STATISTICS
        )

        def write(properties: CommitProperties) -> None:
            self._table.delete(predicate, writer_properties=writer, commit_properties=properties)

        commit_transaction(self._table, write, self._options, epoch=self.epoch)

    def check_fence(self) -> None:
        """Look whether this is still the latest start.

        Raises:
            FencedError: a later start took over.
        """
        with output_errors(self._uri):
            retried(self._table.update_incremental, what=f"read {self._uri}", denied_is_final=False)
        check_fence(self._table, self.epoch)

    def unused_files(self, retention_hours: int) -> list[str]:
        """See storage.delta.unused_files."""
        return unused_files(self._table, retention_hours=retention_hours)


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
    return RunHeader(sum(file.num_rows for file in committed_files(table)), table_metadata(table))


def read_state(output: str, options: StorageOptions) -> RunState | None:
    """Read how far a run has come, while it runs or after; None if it never started. Opens every file."""
    table = open_table(join_uri(output, "masks"), options)
    if table is None:
        return None
    return RunState(*count_results(table, options), _recent_commits(table), table_metadata(table))


def count_results(table: DeltaTable, options: StorageOptions) -> tuple[Counter[str], int]:
    """Count rows by status, and masks, of a snapshot of the results. Opens every file."""
    num_by_status: Counter[str] = Counter()
    num_masks = 0
    # Whoever counts, a command or a script, may end right after it.
    for rows in read_columns(table, ["status", "num_masks"], options, pre_buffer=False):
        num_by_status += _count_statuses(rows)
        num_masks += pa.compute.sum(rows["num_masks"]).as_py() or 0
    return num_by_status, num_masks


def delete_rows(output: str, statuses: Sequence[str], options: StorageOptions) -> int:
    """Delete the rows with these statuses in one transaction, so that the next run does their images again.

    Returns:
        The number of rows.

    Raises:
        ConfigError: no status, or one that there is not.
        OutputError: there are no results.
        FencedError: a later start took over.
    """
    if not statuses or set(statuses) - set(STATUSES):
        raise ConfigError(f"status must be some of {', '.join(STATUSES)}; got {', '.join(statuses) or 'none'}")
    return MaskTable.stop_runs(output, options).delete(statuses)


def vacuum(output: str, retention_hours: int, options: StorageOptions) -> int:
    """Delete files of the results and of the plan that nothing committed needs, and that are this old.

    No file is deleted that a run could still commit. What is found was put before the epoch that is taken here, or by a
    start that has taken over since, which is looked for once everything is found; after that nothing more is. (delta-rs
    finds and deletes in one go: stopped for hours in between, it would delete what was committed meanwhile.)

    Returns:
        The number of files.

    Raises:
        ConfigError: less than an hour, which clocks that differ could make none.
        OutputError: there are no results.
        FencedError: a later start took over; nothing was deleted.
    """
    if retention_hours < 1:
        raise ConfigError(f"retention_hours must be at least 1, got {retention_hours}")
    results = MaskTable.stop_runs(output, options)
    unused = {
        "masks": results.unused_files(retention_hours),
        "images": unused_plan_files(output, retention_hours, options),
    }
    results.check_fence()
    return sum(remove_files(join_uri(output, folder), paths, options) for folder, paths in unused.items() if paths)


def open_results(output: str, options: StorageOptions) -> DeltaTable:
    """Open the results for reading.

    Raises:
        OutputError: there are none.
    """
    table = open_table(join_uri(output, "masks"), options)
    if table is None:
        raise OutputError(f"no results in {output}")
    return table


def _count_statuses(rows: pa.Table) -> Counter[str]:
    counts = pa.compute.value_counts(rows["status"])
    return Counter(dict(zip(counts.field("values").to_pylist(), counts.field("counts").to_pylist(), strict=True)))


def _recent_commits(table: DeltaTable) -> list[tuple[float, int]]:
    with output_errors(table.table_uri):
        entries = retried(lambda: table.history(_RATE_ENTRIES), what=f"read {table.table_uri}")
    return [
        (entry["timestamp"] / 1000, int(entry["num_images"])) for entry in reversed(entries) if "num_images" in entry
    ]


def _mergeable(files: Sequence[DataFile]) -> Iterator[list[DataFile]]:
    """Groups of two or more small files, neighbours by id, that together make a file of the size wanted."""
    group: list[DataFile] = []
    num_bytes = num_rows = 0
    for file in sorted(files, key=lambda file: file.min_image_id):
        if file.size_bytes > _COMPACTED_FILE_BYTES // 2 or file.num_rows > _COMPACTED_FILE_ROWS // 2:
            continue
        num_bytes, num_rows = num_bytes + file.size_bytes, num_rows + file.num_rows
        if num_bytes > _COMPACTED_FILE_BYTES or num_rows > _COMPACTED_FILE_ROWS:
            yield group
            group, num_bytes, num_rows = [], file.size_bytes, file.num_rows
        group.append(file)
    if len(group) > 1:
        yield group
