"""The results table OUTPUT/masks: workers put shards, the driver alone commits them, each start fences the last.

Life of a start: open or create the table, compare fingerprints, take the next epoch, read which ids are committed,
then commit shards until nothing is left and compact them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sam_pipeline.errors import ConfigError, OutputError
from sam_pipeline.storage.layout import table_uri
from sam_pipeline.storage.objects.filesystem import StorageOptions
from sam_pipeline.storage.tables.delta import DataFile, committed_files, open_table, table_id, table_metadata
from sam_pipeline.storage.tables.delta_place import Table
from sam_pipeline.storage.tables.fenced_table import FencedTable, put_parquet
from sam_pipeline.storage.tables.reading.run_header import Fingerprint, check_fingerprint, check_not_filtered
from sam_pipeline.storage.tables.reading.table_reading import read_columns
from sam_pipeline.storage.tables.rewriting import ROWS_PER_GROUP, Rewriter
from sam_pipeline.storage.tables.schema import STATUSES, TABLE_SCHEMAS
from sam_pipeline.storage.tables.start_records import EndRecord, StartRecord, end_property, start_property


@dataclass(frozen=True, eq=False)
class Shard:
    """A file of results that was put, and what the driver wants to know of it without reading it."""

    file: DataFile
    image_ids: npt.NDArray[np.int64]
    """(rows,) of the rows, so that the driver commits no image twice."""
    num_by_status: Counter[str]
    """Rows by status."""
    num_masks: int


@dataclass
class Committed:
    """What a start has committed so far."""

    num_by_status: Counter[str] = field(default_factory=Counter)
    num_masks: int = 0
    num_bytes: int = 0
    """Bytes of its shards."""

    def add(self, shard: Shard) -> None:
        """Count a shard."""
        self.num_by_status += shard.num_by_status
        self.num_masks += shard.num_masks
        self.num_bytes += shard.file.size_bytes


def put_shard(output: str, rows: pa.Table, storage_options: StorageOptions, *, table_id: str) -> Shard:
    """Write result rows as one shard. Called by workers; nothing is visible before the driver commits it.

    Args:
        output: folder of the run.
        rows: of MASKS_SCHEMA, in any order.
        storage_options: of fsspec.
        table_id: MaskTable.id.
    """
    schema = TABLE_SCHEMAS["masks"]
    rows = rows.select(schema.names).cast(schema).sort_by("image_id")
    file = put_parquet(
        table_uri(output, "masks"), rows, storage_options, row_group_size=ROWS_PER_GROUP, table_id=table_id
    )
    num_by_status = Counter(rows["status"].to_pylist())
    return Shard(file, rows["image_id"].to_numpy(), num_by_status, pc.sum(rows["num_masks"]).as_py() or 0)


class MaskTable:
    """The driver's handle on the results: a snapshot, and the epoch under which it may commit.

    Args:
        table: the Delta table.
        epoch: this start's epoch, already committed.
    """

    def __init__(self, table: FencedTable, epoch: int) -> None:
        self._table = table
        self.epoch = epoch
        self.committed = Committed()

    @classmethod
    def take_over(
        cls,
        output: str,
        fingerprint: Fingerprint,
        metadata: Mapping[str, str],
        storage_options: StorageOptions,
        record: StartRecord | None = None,
    ) -> MaskTable:
        """Open the results for a run; from here on, every earlier start's commits fail.

        A table without rows has no results: it takes on this run's settings, whatever it was begun with. But its
        columns stay as they are.

        Args:
            output: folder of the run.
            fingerprint: what decides values; see config.fingerprint.
            metadata: what a new table keeps beside it.
            storage_options: of fsspec.
            record: of the start, kept with the table; None for what is no start of annotate.

        Raises:
            FingerprintMismatchError: the table holds results of other settings, or has the columns of another
                schema_version; nothing was changed.
            FencedError: two starts raced for the same epoch and the other won.
        """
        stored = {"fingerprint": json.dumps(fingerprint, sort_keys=True), **metadata}
        table = FencedTable.open(output, "masks", storage_options) or FencedTable.create(
            output, "masks", stored, storage_options
        )
        begun_with = json.loads(table_metadata(table.snapshot)["fingerprint"])
        changes: dict[str, str] = {}
        if begun_with != dict(fingerprint) and not committed_files(table.snapshot):
            versions = ({"schema_version": each.get("schema_version")} for each in (begun_with, fingerprint))
            check_fingerprint(*versions)
            changes = stored
        else:
            check_fingerprint(begun_with, fingerprint)
        epoch = table.next_epoch()
        if record is not None:
            changes |= start_property(epoch, record)
        if changes:
            table.change_metadata(changes, epoch=epoch)
        else:
            table.commit([], epoch=epoch)
        return cls(table, epoch)

    @classmethod
    def stop_runs(cls, output: str, storage_options: StorageOptions) -> MaskTable:
        """Open existing results for anything but a run, whatever its settings; like every start, it fences the others.

        Raises:
            OutputError: there are no results, or they were filtered.
            FencedError: another start won the epoch.
        """
        table = FencedTable(open_results(output, storage_options), TABLE_SCHEMAS["masks"])
        check_not_filtered(output, table_metadata(table.snapshot))  # raises for a table of another program
        return cls(table, table.take_epoch())

    @property
    def id(self) -> str:
        """See delta.table_id."""
        return table_id(self.snapshot)

    @property
    def snapshot(self) -> Table:
        """The version that is committed from, for reading."""
        return self._table.snapshot

    @property
    def _rewriter(self) -> Rewriter:
        return Rewriter(self._table, self.epoch)

    def committed_ids(self, num_images: int) -> npt.NDArray[np.bool_]:
        """Which images of a plan have a committed row.

        Args:
            num_images: in the plan. Another start may have extended it since it was read, and have done those images.

        Returns:
            (num_images,) bool, indexed by image_id.
        """
        return _committed_ids(self.snapshot, num_images)

    def commit(self, shards: Sequence[Shard]) -> None:
        """Make shards visible, all or none.

        Raises:
            FencedError: a later start took over.
            OutputError: the log could not be written.
            StorageUnavailableError: storage did not answer; the shards may or may not have become visible.
        """
        files = [shard.file for shard in shards]
        summary = {"num_images": str(sum(file.num_rows for file in files))}
        self._table.commit(files, epoch=self.epoch, custom_metadata=summary)
        for shard in shards:
            self.committed.add(shard)

    def record_end(self, record: EndRecord) -> None:
        """Keep with the table how this start ended.

        Raises:
            FencedError: a later start took over.
            OutputError: the log could not be written.
            StorageUnavailableError: storage did not answer.
        """
        # The snapshot of a start that was overtaken may include the later epoch already. A commit from it would meet no
        # conflict, and would set the epoch back.
        self.check_fence()
        self._table.change_metadata(end_property(self.epoch, record), epoch=self.epoch)

    def compact(self) -> None:
        """Merge small files; see rewriting.Rewriter for this and for what follows.

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
            committed_files(self.snapshot), ["status"], lambda rows: pc.is_in(rows["status"], wanted).to_numpy()
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

        files = [file for file in committed_files(self.snapshot) if may_hold(file)]

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
        self._table.confirm_epoch(self.epoch)


def read_committed_ids(output: str, num_images: int, storage_options: StorageOptions) -> npt.NDArray[np.bool_]:
    """As MaskTable.committed_ids, for whoever takes nothing over; all False where there are no results."""
    table = open_table(table_uri(output, "masks"), storage_options)
    return np.zeros(num_images, bool) if table is None else _committed_ids(table, num_images)


def _committed_ids(table: Table, num_images: int) -> npt.NDArray[np.bool_]:
    done = np.zeros(num_images, dtype=bool)
    for rows in read_columns(table, ["image_id"], table.storage_options):
        ids = rows["image_id"].to_numpy()
        done[ids[ids < num_images]] = True
    return done


def delete_rows(output: str, statuses: Sequence[str], storage_options: StorageOptions) -> int:
    """Delete the rows with these statuses, so that the next start does their images again.

    If it is killed, the same call goes on.

    Returns:
        The number of rows.

    Raises:
        ConfigError: no status, or an unknown one.
        OutputError: there are no results.
        FencedError: a later start took over.
    """
    check_statuses(statuses)
    return MaskTable.stop_runs(output, storage_options).delete(statuses)


def check_statuses(statuses: Sequence[str]) -> None:
    """Refuse what is no status.

    Raises:
        ConfigError: no status, or an unknown one.
    """
    if not statuses or set(statuses) - set(STATUSES):
        raise ConfigError(f"status must be some of {', '.join(STATUSES)}; got {', '.join(statuses) or 'none'}")


def open_results(output: str, storage_options: StorageOptions) -> Table:
    """Open the results for reading.

    Raises:
        OutputError: there are none.
    """
    table = open_table(table_uri(output, "masks"), storage_options)
    if table is None:
        raise OutputError(f"no results in {output}")
    return table
