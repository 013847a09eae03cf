"""The results table OUTPUT/masks: workers put shards, the driver alone commits them, each start fences the last.

Life of a start: open or create the table, compare fingerprints, take the next epoch, read which ids are committed,
then commit shards until nothing is left and compact them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from deltalake import DeltaTable

from sam_pipeline.errors import FingerprintMismatchError, OutputError
from sam_pipeline.storage.delta import (
    APP_ID,
    DataFile,
    commit_files,
    create_table,
    open_table,
    output_errors,
    put_parquet,
    table_metadata,
)
from sam_pipeline.storage.filesystem import StorageOptions, join_uri
from sam_pipeline.storage.schema import MASKS_SCHEMA

_COMPACTED_FILE_BYTES = 256 * 2**20

# A row holds about a hundred masks, 50 KB: groups of this many rows stay near 50 MB uncompressed.
_ROWS_PER_GROUP = 1024

# Commits further apart than this belong to different starts, or to a run that stood still.
_PAUSE_S = 1800
_RATE_COMMITS = 50

Fingerprint = Mapping[str, Any]


@dataclass(frozen=True)
class Shard:
    """A file of results that was put, and what the driver wants to know of it without reading it."""

    file: DataFile
    num_masks: int
    num_by_status: Mapping[str, int]


@dataclass(frozen=True)
class RunState:
    """What a results table holds, read from storage alone."""

    num_by_status: Counter[str]
    num_masks: int
    commits: list[tuple[float, int]]
    """(Unix time in seconds, images) of each commit of shards, oldest first."""
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


def put_shard(output: str, rows: pa.Table, options: StorageOptions) -> Shard:
    """Write result rows as one shard. Called by workers; nothing is visible before the driver commits it."""
    rows = rows.select(MASKS_SCHEMA.names).cast(MASKS_SCHEMA).sort_by("image_id")
    file = put_parquet(join_uri(output, "masks"), rows, options, row_group_size=_ROWS_PER_GROUP)
    return Shard(file, pa.compute.sum(rows["num_masks"]).as_py(), Counter(rows["status"].to_pylist()))


class MaskTable:
    """The driver's handle on the results: a snapshot, and the epoch under which it may commit.

    Args:
        table: the Delta table.
        epoch: this start's epoch, already committed.
    """

    def __init__(self, table: DeltaTable, epoch: int) -> None:
        self._table = table
        self.epoch = epoch

    @classmethod
    def take_over(
        cls, output: str, fingerprint: Fingerprint, metadata: Mapping[str, str], options: StorageOptions
    ) -> MaskTable:
        """Open the results for writing; from here on, every earlier start's commits fail.

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
        epoch = (table.transaction_version(APP_ID) or 0) + 1
        commit_files(table, MASKS_SCHEMA, [], epoch=epoch)
        return cls(table, epoch)

    def committed_ids(self, num_images: int) -> npt.NDArray[np.bool_]:
        """Which planned images have a committed row.

        Returns:
            (num_images,) bool, indexed by image_id.
        """
        done = np.zeros(num_images, dtype=bool)
        with output_errors(self._table.table_uri):
            for batch in self._table.to_pyarrow_dataset().to_batches(columns=["image_id"]):
                done[batch["image_id"].to_numpy()] = True
        return done

    def commit(self, shards: Sequence[Shard]) -> None:
        """Make shards visible, all or none.

        Raises:
            FencedError: a later start took over.
            OutputError: the log could not be written.
        """
        summary = {"num_images": str(sum(s.file.num_rows for s in shards))}
        commit_files(self._table, MASKS_SCHEMA, [s.file for s in shards], epoch=self.epoch, custom_metadata=summary)

    def compact(self) -> None:
        """Merge small files. The files they replace stay, unseen, until a vacuum.

        Raises:
            FencedError: a later start took over.
        """
        # delta-rs does not write the application transaction of a compaction, so that alone would pass the fence.
        commit_files(self._table, MASKS_SCHEMA, [], epoch=self.epoch)
        with output_errors(self._table.table_uri):
            self._table.optimize.compact(target_size=_COMPACTED_FILE_BYTES)


def check_fingerprint(stored: Fingerprint, wanted: Fingerprint) -> None:
    """Compare setting by setting.

    Raises:
        FingerprintMismatchError: naming each setting that differs.
    """
    differences = {
        name: (stored.get(name), wanted.get(name))
        for name in sorted({*stored, *wanted})
        if stored.get(name) != wanted.get(name)
    }
    if differences:
        raise FingerprintMismatchError(differences)


def read_state(output: str, options: StorageOptions) -> RunState | None:
    """Read how far a run has come, while it runs or after; None if it never started."""
    table = open_table(join_uri(output, "masks"), options)
    if table is None:
        return None
    num_by_status: Counter[str] = Counter()
    num_masks = 0
    with output_errors(table.table_uri):
        for batch in table.to_pyarrow_dataset().to_batches(columns=["status", "num_masks"]):
            num_by_status.update(batch["status"].to_pylist())
            num_masks += pa.compute.sum(batch["num_masks"]).as_py() or 0
        commits = [
            (entry["timestamp"] / 1000, int(entry["num_images"]))
            for entry in reversed(table.history())
            if "num_images" in entry
        ]
    return RunState(num_by_status, num_masks, commits, table_metadata(table))


def iterate_rows(output: str, options: StorageOptions) -> Iterator[pa.RecordBatch]:
    """All result rows, in batches of bounded size.

    Raises:
        OutputError: there is no results table.
    """
    uri = join_uri(output, "masks")
    table = open_table(uri, options)
    if table is None:
        raise OutputError(f"no results in {output}")
    with output_errors(uri):
        # 64 rows of a hundred masks are some 3 MB: verifying millions of images stays in bounded memory.
        yield from table.to_pyarrow_dataset().to_batches(batch_size=64, batch_readahead=2, fragment_readahead=1)
