import time

import pytest
from ray.util.metrics import Metric

from sam_pipeline.pipeline import metrics
from sam_pipeline.pipeline.metrics import (
    CommitMetrics,
    CommitState,
    count_batches,
    count_images,
    counted,
    counted_retries,
    observe_block,
)
from sam_pipeline.storage.objects.retry_listeners import tell_retry


@pytest.fixture
def told(monkeypatch):
    """What Ray is told: (name without prefix, value, labels but the run)."""
    found = []

    def record(metric, value, tags):
        assert tags["run"] == "r"
        labels = {name: label for name, label in tags.items() if name != "run"}
        found.append((metric.info["name"].removeprefix("sam_pipeline_"), value, labels))

    monkeypatch.setattr(Metric, "_record", record)
    return found


def test_images_are_counted_by_status_and_masks_in_all(told):
    count_images("r", [("ok", 3), ("decode_error", 0), ("ok", 1)])
    assert told == [
        ("images_total", 2, {"status": "ok"}),
        ("images_total", 1, {"status": "decode_error"}),
        ("masks_total", 4, {}),
    ]


def test_nothing_is_counted_of_images_without_masks(told):
    count_images("r", [("fetch_error", 0)])
    assert told == [("images_total", 1, {"status": "fetch_error"})]


def test_a_block_is_a_time_and_images(told):
    observe_block("r", "encode", 16, 0.5)
    stage = {"stage": "encode"}
    assert told == [("stage_seconds", 0.5, stage), ("stage_images_total", 16, stage)]


@pytest.mark.parametrize(("num_crops", "places"), [(16, 16), (12, 16), (21, 32), (1, 16)])
def test_a_batch_has_places_that_crops_may_leave_empty(told, num_crops, places):
    count_batches("r", num_crops, 16)
    assert told == [("encoder_crops_total", num_crops, {}), ("encoder_places_total", places, {})]


def test_bytes_are_counted_of_what_came(told):
    fetched = [b"four", b"", FileNotFoundError("gone"), b"six..."]
    assert list(counted(fetched, "r")) == fetched
    assert told == [("read_bytes_total", 4, {}), ("read_bytes_total", 6, {})]


def test_retries_are_counted_by_what_the_call_was_to_do(told):
    with counted_retries("r"):
        tell_retry("commit")
    tell_retry("read")
    assert told == [("storage_retries_total", 1, {"operation": "commit"})]


def test_commits_are_counted_with_their_images(told):
    CommitMetrics("r", "s3://b/out").observe(256, 1.5)
    assert told == [("commit_seconds", 1.5, {}), ("committed_images_total", 256, {})]


def test_where_results_are_is_shown_again_and_again_and_last_as_it_is_in_the_end(told, monkeypatch):
    """Ray forgets a gauge that is not set for a while."""
    monkeypatch.setattr(metrics, "_SHOW_INTERVAL_S", 0.01)
    shown = CommitMetrics("r", "s3://b/out")
    shown.show(CommitState(num_planned=100, num_committed=60, num_waiting=8, waiting_since=1e9))
    with shown:
        while len(told) < 3 * 5:
            time.sleep(0.01)
        assert told[:5] == told[5:10]
        shown.show(CommitState(num_planned=100, num_committed=100, num_waiting=0, waiting_since=0))
    assert told[:5] == [
        ("run_info", 1, {"output": "s3://b/out"}),
        ("planned_images", 100, {}),
        ("pending_images", 40, {}),
        ("uncommitted_images", 8, {}),
        ("uncommitted_since_timestamp_seconds", 1e9, {}),
    ]
    assert told[-3:] == [
        ("pending_images", 0, {}),
        ("uncommitted_images", 0, {}),
        ("uncommitted_since_timestamp_seconds", 0, {}),
    ]
