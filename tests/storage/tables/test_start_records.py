"""What the table of results tells of its starts."""

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest
from deltalake import DeltaTable

from sam_pipeline.errors import FencedError
from sam_pipeline.storage.tables.delta import METADATA_PREFIX, open_table, table_metadata
from sam_pipeline.storage.tables.results import delete_rows
from sam_pipeline.storage.tables.start_records import StartRecord, read_starts, without_records
from tests.storage.runs import FINGERPRINT, failed_row, plan, row, shard, take_over
from tests.storage.starts import end_record, start, start_record

PREVIOUS = Path(__file__).parents[1] / "previous_version" / "run"


@pytest.fixture
def output(tmp_path):
    return str(tmp_path / "run")


def starts(output):
    return read_starts(open_table(f"{output}/masks", {}))


def test_a_start_that_ended_tells_what_it_began_with_and_what_it_did(output):
    plan(output, 2)
    table = start(output)
    table.commit([shard(output, [row(0), row(1)])])
    table.record_end(end_record())
    (found,) = starts(output)
    assert (found.epoch, found.record, found.end) == (1, start_record(), end_record())
    assert (found.num_images, found.state) == (2, "finished")
    assert abs((found.last_commit - datetime.now(UTC)).total_seconds()) < 60
    assert found.to_dict() == {
        "epoch": 1,
        "start_id": "a",
        "started": "2026-11-29T04:25:00+00:00",
        "user": "someone",
        "host": "a-host",
        "versions": start_record().versions,
        "model_type": "vit_t",
        "weights_sha256": "aa",
        "cluster": {"nodes": 2, "cpus": 8.0, "gpus": 1.0, "gpu_types": ["H100"]},
        "division": None,
        "ray_job_id": None,
        "submission_id": None,
        "ended": "2026-11-29T05:25:00+00:00",
        "outcome": "finished",
        "error": None,
        "num_by_status": {"ok": 2},
        "num_masks": 4,
        "num_bytes": 9000,
        "elapsed_s": 3600.0,
        "images_per_s": 0.001,
        "cpu_hours": 8.0,
        "gpu_hours": 1.0,
        "num_images": 2,
        "last_commit": found.last_commit.isoformat(),
        "state": "finished",
    }


def test_what_a_start_committed_is_counted_as_it_commits(output):
    plan(output, 4)
    table = start(output)
    shards = [shard(output, [row(0, 2), failed_row(1)]), shard(output, [row(2, 3)])]
    for each in shards:
        table.commit([each])
    assert table.committed.num_by_status == {"ok": 2, "decode_error": 1}
    assert table.committed.num_masks == 5
    assert table.committed.num_bytes == sum(each.file.size_bytes for each in shards)


def test_of_a_start_without_an_end_its_commits_tell(output):
    plan(output, 4)
    killed = start(output, "killed")
    killed.commit([shard(output, [row(0), row(1)])])
    killed.commit([shard(output, [row(2)])])
    assert [each.state for each in starts(output)] == ["no end was written (running, or killed?)"]
    newer = start(output, "newer")
    newer.commit([shard(output, [row(3)])])
    newer.compact()
    newer.record_end(end_record(outcome="failed", error="it stalled", num_by_status={"ok": 1}))
    found = starts(output)
    assert [(each.epoch, each.num_images, each.state) for each in found] == [
        (1, 3, "no end was written (killed?)"),
        (2, 1, "failed: it stalled"),
    ]


def test_a_version_that_was_opened_tells_of_no_later_commit(output):
    plan(output, 2)
    table = start(output)
    table.commit([shard(output, [row(0)])])
    opened = open_table(f"{output}/masks", {})
    table.commit([shard(output, [row(1)])])
    assert [each.num_images for each in read_starts(opened)] == [1]


def test_an_overtaken_start_cannot_write_its_end(output):
    plan(output, 1)
    first = start(output, "first")
    start(output, "second")
    with pytest.raises(FencedError):
        first.record_end(end_record())
    assert [each.record.start_id for each in starts(output)] == ["first", "second"]


def test_what_takes_an_epoch_and_annotates_nothing_is_no_start(output):
    plan(output, 2)
    start(output).commit([shard(output, [row(0), failed_row(1)])])
    delete_rows(output, ["decode_error"], {})
    assert [(each.epoch, each.is_newest) for each in starts(output)] == [(1, False)]


def test_an_output_of_a_version_without_records_tells_epochs_and_commits(tmp_path):
    (found,) = starts(str(shutil.copytree(PREVIOUS, tmp_path / "run")))
    assert (found.epoch, found.record, found.end, found.num_images) == (1, None, None, 5)
    assert found.last_commit == datetime(2026, 11, 28, 16, 22, 28, 463000, UTC)
    assert found.state == "no record was written"


def test_a_new_version_goes_on_with_such_an_output(tmp_path):
    output = str(shutil.copytree(PREVIOUS, tmp_path / "run"))
    fingerprint = json.loads(table_metadata(open_table(f"{output}/masks", {}))["fingerprint"])
    start(output, fingerprint=fingerprint)
    assert [(each.epoch, each.record is None) for each in starts(output)] == [(1, True), (3, False)]


def test_records_outlive_the_entries_of_the_log(output):
    """As a table made by another version, or by a program that cleans the log, loses them after thirty days."""
    plan(output, 120)
    first = start(output, "first")
    first.commit([shard(output, [row(0)])])
    first.record_end(end_record())
    second = start(output, "second")
    cleaned = {"delta.enableExpiredLogCleanup": "true", "delta.logRetentionDuration": "interval 0 seconds"}
    DeltaTable(f"{output}/masks").alter.set_table_properties(cleaned)
    with pytest.raises(FencedError):
        second.commit([])  # of another program's change of the table
    third = start(output, "third")
    for number in range(1, 110):
        third.commit([shard(output, [row(number, 0)])])
    assert not Path(output, "masks/_delta_log", f"{1:020}.json").exists()
    assert [each.record.start_id for each in starts(output)] == ["first", "second", "third"]
    assert starts(output)[0].num_images == 2


def test_the_log_of_a_table_keeps_all_its_entries(output):
    plan(output, 120)
    start(output)
    properties = {"delta.logRetentionDuration": "interval 0 seconds"}
    DeltaTable(f"{output}/masks").alter.set_table_properties(properties)
    table = start(output, "b")
    for number in range(110):
        table.commit([shard(output, [row(number, 0)])])
    assert Path(output, "masks/_delta_log", f"{99:020}.checkpoint.parquet").exists()
    assert starts(output)[-1].num_images == 110


def test_records_of_later_versions_may_say_more():
    text = start_record().to_json().replace('"user"', '"colour": "red", "user"')
    assert StartRecord.from_json(text) == start_record()


def test_the_metadata_of_a_run_is_told_from_its_records(output):
    plan(output, 1)
    start(output).record_end(end_record())
    metadata = table_metadata(open_table(f"{output}/masks", {}))
    assert {"start.1", "end.1"} < set(metadata)
    assert set(without_records(metadata)) == {"fingerprint", "config"}
    assert METADATA_PREFIX + "start.1" in DeltaTable(f"{output}/masks").metadata().configuration


def test_a_start_that_finds_no_rows_gives_the_table_its_settings_and_its_record(output):
    plan(output, 1)
    take_over(output)
    start(output, fingerprint=FINGERPRINT | {"points_per_side": 4})
    metadata = table_metadata(open_table(f"{output}/masks", {}))
    assert '"points_per_side": 4' in metadata["fingerprint"]
    assert [each.epoch for each in starts(output)] == [2]
