"""What a start writes of itself, however it ends. With a cluster: tests/faults/test_records.py."""

import getpass
import json
import logging
import platform
import signal
import socket
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

import sam_pipeline
from sam_pipeline.config import PoolConfig
from sam_pipeline.errors import FencedError, OutputError, RunFailedError
from sam_pipeline.pipeline.machines.resources import Cluster, divide
from sam_pipeline.pipeline.monitor import Counts
from sam_pipeline.pipeline.starting import start_recording
from sam_pipeline.pipeline.starting.start_recording import StartRecorder
from sam_pipeline.process import stopping
from sam_pipeline.storage.tables.delta import open_table
from sam_pipeline.storage.tables.results import MaskTable
from sam_pipeline.storage.tables.start_records import read_starts
from tests.storage.runs import FINGERPRINT, failed_row, plan, row, shard, take_over

PINNED = FINGERPRINT | {"model_type": "vit_t"}


@pytest.fixture
def output(tmp_path):
    plan(str(tmp_path), 4)
    return str(tmp_path)


def starts(output):
    return read_starts(open_table(f"{output}/masks", {}))


def work(output, error=None, start_id="a"):
    """A start that commits two images, and then ends by itself or by an error."""
    with StartRecorder(start_id) as recorder:
        table = recorder.take_over(output, PINNED, {"config": "{}"}, {})
        shards = [shard(output, [row(0, 3), failed_row(1)])]
        table.commit(shards)
        if error is not None:
            raise error
    return shards


def is_now(iso):
    return abs((datetime.fromisoformat(iso) - datetime.now(UTC)).total_seconds()) < 60


def test_a_start_that_finishes_says_who_it_was_and_what_it_did(output):
    (written,) = work(output)
    (found,) = starts(output)
    record, end = found.record, found.end
    assert is_now(record.started)
    assert (record.start_id, record.user, record.host) == ("a", getpass.getuser(), socket.gethostname())
    assert (record.model_type, record.weights_sha256) == ("vit_t", "aa")
    assert record.versions.keys() == {"sam_pipeline", "python", "ray", "torch"}
    assert record.versions["sam_pipeline"] == sam_pipeline.__version__
    assert record.versions["python"] == platform.python_version()
    assert (record.cluster, record.division, record.ray_job_id, record.submission_id) == (None, None, None, None)
    assert is_now(end.ended)
    assert (end.outcome, end.error) == ("finished", None)
    assert (end.num_by_status, end.num_masks) == ({"ok": 1, "decode_error": 1}, 3)
    assert end.num_bytes == written.file.size_bytes
    assert end.images_per_s > 0
    assert (end.cpu_hours, end.gpu_hours) == (0, 0)  # no cluster was needed


class Shown:
    """A display that remembers what it was told."""

    def __init__(self):
        self.told = []

    def __enter__(self):
        self.told.append("enter")

    def __exit__(self, *_):
        self.told.append("exit")

    def update(self, counts, num_committed):
        self.told.append(num_committed)


def test_hours_are_those_of_the_machines_that_there_were(output, monkeypatch):
    now, shown = [1000.0], Shown()
    of_four = Cluster(4.0, 1.0, 4.0, 2**30, 2**30, 4.0, 4.0, {})
    of_ten = replace(of_four, num_cpus=10.0, num_gpus=2.0)
    monkeypatch.setattr(start_recording.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(start_recording, "current_cluster", lambda: of_ten)
    monkeypatch.setattr(start_recording, "_cluster_facts", lambda _: {})
    job = SimpleNamespace(get_job_id=lambda: "01000000")
    monkeypatch.setattr(start_recording.ray, "get_runtime_context", lambda: job)
    with StartRecorder("a") as recorder:
        recorder.uses(of_four, divide(PoolConfig(), "cpu", "vit_t", of_four))
        recorder.take_over(output, PINNED, {"config": "{}"}, {})
        with recorder.metering(lambda *_: shown)(4, 0) as display:
            for seconds in (10, 1790, 10):  # too soon for a look, a look, too soon
                now[0] += seconds
                display.update(Counts(), 3)
            now[0] += 1790
        recorder.released()
        now[0] += 3600  # merging shards needs no cluster
    assert shown.told == ["enter", 3, 3, 3, "exit"]
    (found,) = starts(output)
    assert (found.end.cpu_hours, found.end.gpu_hours) == (4 / 2 + 10 / 2, 1 / 2 + 2 / 2)
    assert (found.end.elapsed_s, found.record.ray_job_id) == (7200, "01000000")
    assert found.record.division["encode_actors"] == 1


def test_an_error_is_told_in_one_line_without_credentials(output):
    with pytest.raises(RunFailedError):
        work(output, RunFailedError("it broke at https://user:canary@host/a?sig=canary\nand below"))
    (found,) = starts(output)
    assert (found.end.outcome, found.end.error) == ("failed", "it broke at https://host/a and below")
    assert found.num_images == 2


def test_a_signal_is_told_by_its_name(output, monkeypatch):
    monkeypatch.setattr(stopping._State, "received", signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        work(output, KeyboardInterrupt())
    (found,) = starts(output)
    assert (found.end.outcome, found.end.error) == ("stopped", "SIGTERM")


@pytest.mark.parametrize(
    "notice", [lambda table, output: table.commit([shard(output, [row(0)])]), lambda table, _: table.check_fence()]
)
def test_an_overtaken_start_leaves_the_end_to_nobody_and_the_table_to_the_later_one(output, notice, caplog):
    later = []

    def be_overtaken():
        with StartRecorder("first") as recorder:
            table = recorder.take_over(output, PINNED, {"config": "{}"}, {})
            later.append(take_over(output, PINNED))
            notice(table, output)

    with pytest.raises(FencedError):
        be_overtaken()
    (found,) = starts(output)
    assert (found.record.start_id, found.end, caplog.messages) == ("first", None, [])
    later[0].commit([shard(output, [row(0)])])
    assert later[0].committed_ids(1).all()


def test_a_start_that_does_not_begin_leaves_no_record(output):
    with pytest.raises(OutputError), StartRecorder("a"):
        raise OutputError("no space left")
    assert open_table(f"{output}/masks", {}) is None


def test_where_the_end_cannot_be_written_a_warning_says_so_and_the_first_error_stays(output, monkeypatch, caplog):
    def fail(*_):
        raise OutputError("no space left")

    monkeypatch.setattr(MaskTable, "record_end", fail)
    with caplog.at_level(logging.WARNING), pytest.raises(RunFailedError, match="it stalled"):
        work(output, RunFailedError("it stalled"))
    assert caplog.messages == ["how this start ended could not be written into the output: no space left"]


def test_of_a_submitted_job_the_id_is_kept_and_nothing_else_of_its_environment(output, monkeypatch):
    job = {
        "runtime_env": {"env_vars": {"AWS_SECRET_ACCESS_KEY": "canary"}},
        "metadata": {"job_submission_id": "raysubmit_1"},
    }
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(job))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary")
    work(output)
    (found,) = starts(output)
    assert found.record.submission_id == "raysubmit_1"
    assert "canary" not in json.dumps(found.to_dict())


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"metadata": null}'])
def test_a_job_that_says_its_id_in_another_way_has_none(output, monkeypatch, text):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", text)
    work(output)
    assert starts(output)[0].record.submission_id is None
