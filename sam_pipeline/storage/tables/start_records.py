"""What each start leaves in the table of results: a record as it takes its epoch, and another as it ends.

They are properties of the table, which every version of it carries. Not custom metadata of commits: in older outputs,
entries of the log are removed after thirty days. A start that was killed has no second record; what is left of its
commits in the log says what it did. The same holds for starts of versions that wrote no records.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal, Self

from sam_pipeline.config.fingerprint import filters_of
from sam_pipeline.storage.objects.filesystem import join_uri, open_filesystem
from sam_pipeline.storage.objects.retrying import retried
from sam_pipeline.storage.tables.delta import REQUESTS_AT_ONCE, output_errors, table_metadata
from sam_pipeline.storage.tables.delta_place import Table
from sam_pipeline.storage.tables.fenced_table import APP_ID

_KEY = re.compile(r"(?P<kind>start|end)\.(?P<epoch>\d+)")
_LOG_ENTRY = re.compile(r"\d{20}\.json")

Outcome = Literal["finished", "stopped", "failed"]
"""How a start ended: every image has a row, a signal ended it, or an error did."""


@dataclass(frozen=True, kw_only=True)
class _Record:
    @classmethod
    def from_json(cls, text: str) -> Self:
        """What to_json wrote; later versions may write more, which is left out."""
        known = {each.name for each in fields(cls)}
        return cls(**{name: value for name, value in json.loads(text).items() if name in known})

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)


@dataclass(frozen=True, kw_only=True)
class StartRecord(_Record):
    """Who began what, where and with what. Holds nothing of the environment but a job's ids."""

    start_id: str
    """Random; in each line of the start's JSON log. A command that starts again by itself keeps it."""
    started: str
    """When it took its epoch: ISO 8601, UTC."""
    user: str
    host: str
    """Name of the driver's machine."""
    versions: dict[str, str]
    """Versions of sam_pipeline, python, ray and torch."""
    model_type: str
    weights_sha256: str
    cluster: dict[str, Any] | None = None
    """nodes, cpus, gpus and gpu_types of the cluster as the start began; None where nothing was left to annotate."""
    division: dict[str, Any] | None = None
    """The division of the cluster, by the names of pipeline.machines.resources.Resources."""
    ray_job_id: str | None = None
    submission_id: str | None = None
    """The id that `ray job submit` printed; None if the start is no such job."""


@dataclass(frozen=True, kw_only=True)
class EndRecord(_Record):
    """What a start has done."""

    ended: str
    """ISO 8601, UTC."""
    outcome: Outcome
    error: str | None
    """One line, without credentials."""
    num_by_status: dict[str, int]
    """Images that it committed, by status."""
    num_masks: int
    num_bytes: int
    """Bytes of the shards that it committed."""
    elapsed_s: float
    """From the division of the cluster to the end."""
    images_per_s: float
    cpu_hours: float
    """CPUs of the cluster, busy or not, looked at twice a minute, from its division to the last image. Compaction is
    part of elapsed_s, but needs no cluster."""
    gpu_hours: float
    """The same of GPUs."""

    @property
    def num_images(self) -> int:
        """Images that it committed."""
        return sum(self.num_by_status.values())


@dataclass(frozen=True)
class Start:
    """A start, as the table of results tells of it."""

    epoch: int
    record: StartRecord | None
    """None for a version of the program that wrote none."""
    end: EndRecord | None
    """None while it runs; for good if it was killed or overtaken, or wrote no record."""
    num_images: int | None
    """Images that it committed; None where neither a record nor the log was asked, or the log no longer says."""
    last_commit: datetime | None
    """When it last committed images, UTC; None if it has not, or the log no longer says or was not asked."""
    is_newest: bool = False
    """Whether no later epoch is known; only such a start may still run. newest_start knows of starts alone, read_starts
    of `retry` and `vacuum` too."""

    @property
    def state(self) -> str:
        """How it ended, in a few words."""
        if self.end is not None:
            return self.end.outcome if self.end.error is None else f"{self.end.outcome}: {self.end.error}"
        if self.record is None:
            return "no record was written"
        return "no end was written (running, or killed?)" if self.is_newest else "no end was written (killed?)"

    def to_dict(self) -> dict[str, Any]:
        """All that is known, with names as in the records; fit for JSON."""
        return {
            "epoch": self.epoch,
            **({} if self.record is None else asdict(self.record)),
            **({} if self.end is None else asdict(self.end)),
            "num_images": self.num_images,
            "last_commit": None if self.last_commit is None else self.last_commit.isoformat(),
            "state": self.state,
        }


@dataclass
class _Committed:
    """What the log says of an epoch."""

    num_images: int = 0
    last: datetime | None = None


def start_property(epoch: int, record: StartRecord) -> dict[str, str]:
    """A record as metadata of the table."""
    return {f"start.{epoch}": record.to_json()}


def end_property(epoch: int, record: EndRecord) -> dict[str, str]:
    """The same of a start's end."""
    return {f"end.{epoch}": record.to_json()}


def without_records(metadata: Mapping[str, str]) -> dict[str, str]:
    """The metadata of a table but for records of its starts."""
    return {name: value for name, value in metadata.items() if _KEY.fullmatch(name) is None}


def newest_start(metadata: Mapping[str, str]) -> Start | None:
    """The newest start of which there is a record, without a look at the log: `retry` or `vacuum` may have come after.

    Args:
        metadata: as table_metadata gives it.
    """
    records = _records(metadata)
    if not records:
        return None
    epoch = max(records)
    record, end = records[epoch]
    return Start(epoch, record, end, None if end is None else end.num_images, None, is_newest=True)


def read_starts(table: Table) -> list[Start]:
    """All starts of a run, in their order. Reads each entry of the log: a small file for each commit.

    Args:
        table: the results.

    Raises:
        OutputError: the log cannot be read.
        StorageUnavailableError: storage did not answer.
    """
    metadata = table_metadata(table)
    records, (committed, is_whole) = _records(metadata), _committed_by_epoch(table)
    newest_epoch = max({*records, *committed}, default=0)
    # Of the oldest epoch that a log still tells, some commits may be gone.
    whole_from = 0 if is_whole else min(committed, default=newest_epoch) + 1
    # Other commands take epochs too. Of these only filter commits images, and no start of annotate works on its output.
    is_filtered = bool(filters_of(json.loads(metadata["fingerprint"])))
    epochs = {*records, *(epoch for epoch, of_epoch in committed.items() if of_epoch.num_images and not is_filtered)}
    starts = []
    for epoch in sorted(epochs):
        record, end = records.get(epoch, (None, None))
        of_epoch = committed.get(epoch, _Committed())
        num_images = of_epoch.num_images if epoch >= whole_from else None
        if end is not None:
            num_images = end.num_images
        starts.append(Start(epoch, record, end, num_images, of_epoch.last, epoch == newest_epoch))
    return starts


def _records(metadata: Mapping[str, str]) -> dict[int, tuple[StartRecord, EndRecord | None]]:
    """Both records by epoch."""
    texts = {
        (match["kind"], int(match["epoch"])): text
        for name, text in metadata.items()
        if (match := _KEY.fullmatch(name)) is not None
    }
    return {
        epoch: (
            StartRecord.from_json(text),
            EndRecord.from_json(texts["end", epoch]) if ("end", epoch) in texts else None,
        )
        for (kind, epoch), text in texts.items()
        if kind == "start"
    }


def _committed_by_epoch(table: Table) -> tuple[dict[int, _Committed], bool]:
    """What each epoch has committed; and whether the log is whole: those of older versions lose their oldest entries.

    Read from the log itself, because delta-rs' history leaves out the epochs of commits.
    """
    folder = join_uri(table.uri, "_delta_log")
    found: dict[int, _Committed] = {}
    with output_errors(table.uri):
        filesystem, path = open_filesystem(folder, table.storage_options)
        filesystem.invalidate_cache()
        listed = retried(partial(filesystem.ls, path, detail=False), what=f"list {folder}", denied_is_final=False)
        newest = f"{table.version():020}.json"
        names = ((path, path.rpartition("/")[2]) for path in listed)
        entries = sorted(path for path, name in names if _LOG_ENTRY.fullmatch(name) and name <= newest)
        with ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
            for content in pool.map(partial(_read_entry, filesystem), entries):
                _count_entry(content, found)
    return found, len(entries) == table.version() + 1


def _read_entry(filesystem: Any, path: str) -> bytes:
    content: bytes = retried(partial(filesystem.cat_file, path), what=f"read {path}", denied_is_final=False)
    return content


def _count_entry(content: bytes, found: dict[int, _Committed]) -> None:
    """Add the images of a log entry to those of its epoch. Compaction and deletion say no number of images."""
    actions: dict[str, Any] = {}
    for line in content.splitlines():
        actions |= json.loads(line)
    transaction = actions.get("txn", {})
    if transaction.get("appId") != APP_ID:
        return  # the creation of the table, or another program's change of it
    of_epoch, info = found.setdefault(transaction["version"], _Committed()), actions["commitInfo"]
    if "num_images" in info:
        of_epoch.num_images += int(info["num_images"])
        of_epoch.last = datetime.fromtimestamp(info["timestamp"] / 1000, UTC)
