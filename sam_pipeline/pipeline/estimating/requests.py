"""How many requests a run sends to stores, by arithmetic: they are too many and too cheap to be worth a look at each.

The numbers were counted at an S3 server (deltalake 1.6.6); a test compares them with those of a run. LIST counts among
those that write, as in the prices of S3.

reading     an image: 1 GET of it or of its range in a container; none on a web server. Containers that are read through
            (compressed tar archives, Parquet files) come in parts of megabytes, which are fewer. A container: 1 HEAD
            for each chunk of a reading task.
            a chunk: its rows of the plan. 1 LIST and 7 GET for the log, 2 GET for the rows; the same for prompts.
writing     a shard: 1 PUT.
committing  a commit, at most one every commit_interval_s: 1 PUT, 4 LIST, and as many GET as the log has entries since
            its checkpoint, and 4: delta-rs reads them again to know the epoch. Every hundredth makes a checkpoint:
            2 PUT, 2 LIST, 217 GET. If shards come more seldom than every ten seconds, the driver looks between commits
            whether another start took over, which takes the same without the PUT.
compacting  a shard: 1 HEAD, 1 GET. A file of 128 MiB: 1 PUT, and a commit for two of them. Further rounds, for
            tiny shards, are left out.
beside      opening and creating tables, and a last look: 31 LIST, 84 GET, and all entries of the log three times.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sam_pipeline.pipeline.estimating.figures import Requests
from sam_pipeline.safety.uri_rules import HTTP_SCHEMES
from sam_pipeline.storage.inputs.source_object import SourceObject
from sam_pipeline.storage.objects.filesystem import protocol_of

_LISTS_OF_A_RUN, _GETS_OF_A_RUN, _LOGS_READ_AT_THE_END = 31, 84, 3
_GETS_OF_A_CHUNK = 9
_LISTS_OF_A_COMMIT, _GETS_OF_A_COMMIT = 4, 4
_COMMITS_PER_CHECKPOINT = 100
_PUTS_OF_A_CHECKPOINT, _LISTS_OF_A_CHECKPOINT, _GETS_OF_A_CHECKPOINT = 2, 2, 217
_LOOK_INTERVAL_S = 10.0
_COMPACTED_FILE_BYTES = 128 * 2**20
_FILES_PER_COMMIT = 2


@dataclass(frozen=True)
class Work:
    """What is left of a run, as far as requests depend on it."""

    output: str
    num_images: int
    looked_at: Sequence[SourceObject]
    """A sample of the planned images; the others are assumed to be of the same kinds, in the same shares."""
    chunk_rows: int
    """Images of a reading task."""
    shard_rows: int
    """Images of a shard."""
    bytes_out: int | None
    """None is not known; the requests of compaction are left out."""
    has_prompts: bool
    commit_interval_s: float


def requests_of(work: Work, time_s: float) -> Requests:
    """The requests of a run that takes so long."""
    requests = _of_input(work)
    if _is_counted(work.output):
        requests = _sum(requests, _of_output(work, time_s))
    return requests


def _of_input(work: Work) -> Requests:
    places = [image.uri if image.location is None else image.location.container for image in work.looked_at]
    counted = [image for image, place in zip(work.looked_at, places, strict=True) if _is_counted(place)]
    num_contained = sum(image.location is not None for image in counted)
    num_images = work.num_images * len(counted) / len(places)
    num_containers = work.num_images / work.chunk_rows * num_contained / len(places)
    return Requests(0, math.ceil(num_images + num_containers))


def _of_output(work: Work, time_s: float) -> Requests:
    num_chunks = math.ceil(work.num_images / work.chunk_rows) * (2 if work.has_prompts else 1)
    num_shards = math.ceil(work.num_images / work.shard_rows)
    num_compacted = math.ceil((work.bytes_out or 0) / _COMPACTED_FILE_BYTES)
    num_while_working = min(num_shards, math.ceil(time_s / work.commit_interval_s))
    num_looks = max(0, math.floor(time_s / _LOOK_INTERVAL_S) - num_while_working)
    num_commits = num_while_working + math.ceil(num_compacted / _FILES_PER_COMMIT)
    num_checkpoints = num_commits // _COMMITS_PER_CHECKPOINT
    num_lists = (
        _LISTS_OF_A_RUN
        + num_chunks
        + (num_commits + num_looks) * _LISTS_OF_A_COMMIT
        + num_checkpoints * _LISTS_OF_A_CHECKPOINT
    )
    entries = _entries(num_commits)
    num_gets = (
        _GETS_OF_A_RUN
        + num_chunks * _GETS_OF_A_CHUNK
        + 2 * num_shards  # HEAD and GET, to compact them
        + entries
        + num_commits * _GETS_OF_A_COMMIT
        + num_looks * (_GETS_OF_A_COMMIT + entries // max(1, num_commits))
        + num_checkpoints * _GETS_OF_A_CHECKPOINT
        + _LOGS_READ_AT_THE_END * (num_commits % _COMMITS_PER_CHECKPOINT)
    )
    num_puts = num_shards + num_compacted + num_commits + num_checkpoints * _PUTS_OF_A_CHECKPOINT
    return Requests(num_puts + num_lists, num_gets)


def _entries(num_commits: int) -> int:
    """How many entries of the log are read by so many commits: each reads those since the last checkpoint."""
    whole, rest = divmod(num_commits, _COMMITS_PER_CHECKPOINT)
    return whole * sum(range(_COMMITS_PER_CHECKPOINT)) + sum(range(rest))


def _is_counted(uri: str) -> bool:
    return protocol_of(uri) not in ("file", *HTTP_SCHEMES)


def _sum(one: Requests, other: Requests) -> Requests:
    return Requests(one.num_put + other.num_put, one.num_get + other.num_get)
