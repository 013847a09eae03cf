"""Jobs of `ray job submit`: stopped, submitted again, and what their logs and tables may hold."""

import json
import os
import signal
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.clusters import ray_head
from tests.faults.conftest import IMPATIENT, SMALL_SHARDS
from tests.faults.fake_engine import Instructions
from tests.faults.test_ends import LINES
from tests.processes import SCRIPTS

# CI submits a job in tests/end_to_end/test_cluster_job.py.
pytestmark = [pytest.mark.s3, pytest.mark.slow, pytest.mark.soak, pytest.mark.without_cluster]

SLOW = Instructions(seconds=0.3)


def test_a_job_that_is_stopped_and_submitted_again_does_each_image_once(run, start, fault_env, tmp_path):
    home = {"HOME": str(tmp_path), "PATH": os.pathsep.join([str(SCRIPTS), fault_env["PATH"]])}  # jobs say `python`
    env = fault_env | home | {"FAKE_ENGINE": json.dumps(asdict(SLOW) | {"log": str(run.log)})}
    storage = json.dumps({**IMPATIENT, "endpoint_url": run.s3.endpoint})
    places = ("--input", run.input, "--output", run.output, "--storage-options", storage)
    command = ("python", "-m", "tests.faults.fake_run", "annotate", *places, "--model-type", "vit_t", *SMALL_SHARDS)
    with ray_head(start, env, num_cpus=2) as head:

        def job(action, *arguments):
            return start("job", action, "--address", head.dashboard, *arguments, script="ray", env=env).wait()

        submitted = job("submit", "--submission-id", "first", "--no-wait", "--", *command)
        assert submitted.exit_code == 0, submitted.stderr
        head.program.wait_until(lambda: run.num_committed() > 0)
        assert job("stop", "first").exit_code == 0
        logs = job("logs", "first").stdout
        assert logs.count(LINES[signal.SIGTERM]) == 1, logs
        assert "***" not in logs
        kept = run.num_committed()
        assert kept < run.num_images

        again = job("submit", "--submission-id", "second", "--", *command)
        assert again.exit_code == 0, again.stdout + again.stderr
        assert f"annotated now  {run.num_images - kept}\n" in again.stdout
        assert head.program.process.poll() is None
    run.assert_complete()
    assert_no_secret_in(run, Path(fault_env["RAY_TMPDIR"]), logs + again.stdout + again.stderr)


def assert_no_secret_in(run, ray_folder, printed):
    """Neither in what jobs print, nor in Ray's logs, nor in the tables."""
    bucket, _, prefix = run.output.removeprefix("s3://").partition("/")
    stored = b"".join(run.s3.get(bucket, key) for key in run.s3.list_keys(bucket, f"{prefix}/"))
    logged = b"".join(path.read_bytes() for path in ray_folder.rglob("*") if path.is_file() and "logs" in path.parts)
    assert b"fake_run" in logged, "these are not the logs of the cluster"
    for secret in (run.s3.secret_key, run.env["RAY_AUTH_TOKEN"]):
        for text in (printed.encode(), stored, logged):
            assert secret.encode() not in text
