"""The starts of a run as a table: what `runs` prints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sam_pipeline.storage.tables.start_records import Start

_HEADINGS = ("start", "began (UTC)", "by", "version", "model", "cluster", "images", "rate", "CPU h", "GPU h", "state")


def starts_rows(starts: Sequence[Start]) -> list[Sequence[str]]:
    """The headings, and a row for each start; what is not known is left empty."""
    return [_HEADINGS, *(list(_cells(start)) for start in starts)]


def _cells(start: Start) -> Iterator[str]:
    record, end = start.record, start.end
    yield str(start.epoch)
    if record is None:
        yield from ("", "", "", "", "")
    else:
        yield from (_minute(record.started), f"{record.user}@{record.host}", record.versions["sam_pipeline"])
        yield from (record.model_type, _cluster_text(record.cluster))
    yield "" if start.num_images is None else str(start.num_images)
    yield from ("", "", "") if end is None else (f"{end.images_per_s:g}/s", f"{end.cpu_hours:g}", f"{end.gpu_hours:g}")
    if end is None and start.last_commit is not None:
        yield f"{start.state}; last commit {_minute(start.last_commit.isoformat())}"
    else:
        yield start.state


def _minute(iso: str) -> str:
    return iso[:16].replace("T", " ")


def _cluster_text(cluster: Mapping[str, Any] | None) -> str:
    if cluster is None:
        return ""
    text = f"{_number(cluster['nodes'], 'node')}, {_number(cluster['cpus'], 'CPU')}"
    if cluster["gpus"]:
        text += f", {_number(cluster['gpus'], 'GPU')} ({', '.join(cluster['gpu_types'])})"
    return text


def _number(count: float, name: str) -> str:
    return f"{count:g} {name}{'' if count == 1 else 's'}"
