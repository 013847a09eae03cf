"""Requests of a run, by arithmetic; tests/faults/test_estimates.py compares them with those of a run."""

import dataclasses

import pytest

from sam_pipeline.pipeline.estimating.figures import Requests
from sam_pipeline.pipeline.estimating.requests import Work, requests_of
from sam_pipeline.storage.inputs.source_object import Location, SourceObject

OBJECT = SourceObject("s3://bucket/0.jpg", 1000, None)
MEMBER = SourceObject("s3://b/0.tar#0.jpg", 1000, None, Location("s3://b/0.tar", "range", 512, 1000))
LOCAL, WEB = (SourceObject(uri, 1000, None) for uri in ("/photos/0.jpg", "https://example.org/0.jpg"))


def work(*looked_at, output="/run", num_images=1000, **changes):
    fields = {"chunk_rows": 100, "shard_rows": 10, "bytes_out": 10**8, "has_prompts": False, "commit_interval_s": 10}
    return Work(output, num_images, looked_at, **(fields | changes))


@pytest.mark.parametrize(
    ("looked_at", "num_get"),
    [([OBJECT], 1000), ([MEMBER], 1010), ([LOCAL], 0), ([WEB], 0), ([LOCAL, OBJECT, WEB, OBJECT], 500)],
)
def test_images_are_asked_for_where_there_is_a_store(looked_at, num_get):
    assert requests_of(work(*looked_at), 100) == Requests(0, num_get)


def test_what_a_run_writes_and_commits_is_counted():
    found = requests_of(work(LOCAL, output="s3://bucket/run"), time_s=100)
    # 100 shards, 1 compacted file and 11 commits; 31 lists of the start, 10 of chunks, 4 a commit.
    assert found.num_put == 100 + 1 + 11 + 31 + 10 + 4 * 11
    # 84 of the start, 9 a chunk, 2 a shard, 4 a commit and its log, and the log three times.
    assert found.num_get == 84 + 9 * 10 + 2 * 100 + 4 * 11 + sum(range(11)) + 3 * 11


def test_each_request_has_its_reason():
    base = work(OBJECT, output="s3://bucket/run")
    found = requests_of(base, 1000)
    assert requests_of(dataclasses.replace(base, has_prompts=True), 1000).num_get == found.num_get + 9 * 10
    assert requests_of(dataclasses.replace(base, commit_interval_s=100), 1000).num_put < found.num_put
    # Commits without shards are none; the driver looks instead.
    slow = dataclasses.replace(base, shard_rows=1000)
    assert requests_of(slow, 1000).num_put == 1 + 1 + 2 + 31 + 10 + 4 * (2 + 99)


def test_the_log_is_read_from_its_last_checkpoint():
    base = work(OBJECT, output="s3://bucket/run", num_images=100_000)
    few, many = (requests_of(base, 10 * number).num_get for number in (1000, 2000))
    assert (many - few) / 1000 == pytest.approx(4 + 49.5 + 2.17)
