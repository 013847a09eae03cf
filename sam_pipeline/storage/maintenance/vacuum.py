"""Deleting the files of a run that nothing committed needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sam_pipeline.errors import ConfigError
from sam_pipeline.storage.layout import TableName
from sam_pipeline.storage.maintenance.unused_files import find_unused_files, remove_files
from sam_pipeline.storage.objects.filesystem import StorageOptions
from sam_pipeline.storage.tables.delta import table_metadata
from sam_pipeline.storage.tables.fenced_table import FencedTable
from sam_pipeline.storage.tables.plan import take_plan_epoch
from sam_pipeline.storage.tables.prompts import take_prompts_epoch
from sam_pipeline.storage.tables.results import open_results

_MAX_RETENTION_HOURS = 24 * 365 * 100  # delta-rs panics if the time so long ago is before its earliest date

_TAKE_EPOCH: dict[TableName, Callable[[FencedTable], int]] = {
    "images": take_plan_epoch,
    "prompts": take_prompts_epoch,
    "masks": FencedTable.take_epoch,
}


@dataclass(frozen=True)
class Vacuumed:
    """What a vacuum did."""

    num_removed: int
    num_foreign: int
    """Files and folders, where the tables are, that this program did not write; they were left alone."""


def vacuum(output: str, retention_hours: int, storage_options: StorageOptions) -> Vacuumed:
    """Delete files of a run's tables that nothing committed needs, and that are this old.

    No file is deleted that a run or a planner could still commit. The epochs are taken before files are looked for, and
    confirmed after. So each file found was put by a writer that is fenced now. If a later writer has put files
    meanwhile, it has taken a newer epoch: the confirmation fails, and nothing is deleted. (delta-rs finds and deletes
    in one go: stopped for hours in between, it would delete what was committed meanwhile.)

    Raises:
        ConfigError: less than an hour, which clock skew could reduce to nothing, or more than a hundred years.
        OutputError: there are no results.
        FencedError: another writer took over; nothing was deleted.
    """
    if not 1 <= retention_hours <= _MAX_RETENTION_HOURS:
        raise ConfigError(f"retention_hours must be in [1, {_MAX_RETENTION_HOURS}], got {retention_hours}")
    table_metadata(open_results(output, storage_options))  # raises for a table of another program
    fenced = list(_fenced_tables(output, storage_options))
    found = [find_unused_files(table.snapshot, storage_options, retention_hours=retention_hours) for table, _ in fenced]
    for table, epoch in fenced:
        table.confirm_epoch(epoch)
    for (table, _), files in zip(fenced, found, strict=True):
        remove_files(table.uri, files.removable, storage_options)
    return Vacuumed(sum(len(files.removable) for files in found), sum(files.num_foreign for files in found))


def _fenced_tables(output: str, storage_options: StorageOptions) -> Iterator[tuple[FencedTable, int]]:
    """(table, epoch) of the tables to clean.

    A plan, or prompts, without a commit are left out: a writer that is at its first commit takes no epoch before, since
    an epoch would make them look finished.
    """
    for name, take in _TAKE_EPOCH.items():
        table = FencedTable.open(output, name, storage_options)
        if table is not None and (name == "masks" or table.committed_epoch() is not None):
            yield table, take(table)
