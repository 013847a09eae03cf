"""What operators see of real runs: `status --watch`, `runs`, and logs as JSON; and that no secret is in any of it."""

import json
import signal

import pytest

from sam_pipeline.api import open_run
from sam_pipeline.storage.run_ids import run_id
from tests.faults.conftest import NUM_IMAGES
from tests.faults.fake_engine import Instructions
from tests.faults.local_run import NUM_IMAGES as NUM_LOCAL_IMAGES
from tests.faults.local_run import SLOW, LocalRun

pytestmark = pytest.mark.slow

AS_JSON = ("--log-format", "json")


def objects(text):
    """JSON Lines, of which every line must be an object."""
    found = [json.loads(line) for line in text.splitlines()]
    assert all(isinstance(each, dict) for each in found)
    return found


def assert_events(stderr, output):
    """Every line is an event with all ids, of one start."""
    events = objects(stderr)
    assert events, "nothing was logged"
    assert all({"time", "level", "event"} < set(each) for each in events)
    assert {each["run_id"] for each in events} == {run_id(output)}
    assert len({each["start_id"] for each in events}) == 1
    return events


@pytest.mark.soak
def test_starts_that_were_stopped_killed_and_finished_are_told_apart(start, base_env, tmp_path):
    run = LocalRun(start, base_env, tmp_path)
    output = str(run.output)

    stopped = run.annotate(SLOW, *AS_JSON)
    stopped.wait_until(lambda: run.num_committed() > 0)
    stopped.signal(signal.SIGTERM)
    stopped_events = assert_events(stopped.wait().stderr, output)
    assert stopped_events[-1]["event"] == "ended by SIGTERM; the same command resumes"
    num_stopped = run.num_committed()

    killed = run.annotate(SLOW, *AS_JSON)
    killed.wait_until(lambda: run.num_committed() > num_stopped)
    killed.driver().kill()
    finished = killed.wait()
    killed_events = assert_events(finished.stderr, output)
    assert (finished.exit_code, killed_events[-1]["level"]) == (1, "error")
    assert killed_events[-1]["event"].startswith("the run was ended by SIGKILL")
    num_killed = run.num_committed() - num_stopped
    assert 0 < num_killed < NUM_LOCAL_IMAGES - num_stopped

    last = run.annotate(SLOW, *AS_JSON)
    watched = start("status", output, "--watch")
    ended = last.wait()
    last_events = assert_events(ended.stderr, output)
    assert ended.exit_code == 0, ended.stderr
    progress = [each for each in last_events if each["event"] == "progress"][-1]
    assert (progress["done"], progress["total"], progress["errors"]) == (NUM_LOCAL_IMAGES, NUM_LOCAL_IMAGES, 0)
    assert progress["committed"] == NUM_LOCAL_IMAGES
    (summary,) = objects(ended.stdout)
    num_last = NUM_LOCAL_IMAGES - num_stopped - num_killed
    assert summary["num_by_status"] == {"ok": NUM_LOCAL_IMAGES}
    assert (summary["num_annotated"], summary["start_id"]) == (num_last, progress["start_id"])

    lines = watched.wait().stdout.splitlines()
    looks = [line for line in lines if " images, " in line]
    assert looks[0].startswith(f"{num_stopped + num_killed}/{NUM_LOCAL_IMAGES} images")
    assert looks[-1].startswith(f"{NUM_LOCAL_IMAGES}/{NUM_LOCAL_IMAGES} images")
    assert "left         0" in lines

    found = objects(start("runs", output, "--json").wait().stdout)
    ids = [events[0]["start_id"] for events in (stopped_events, killed_events, last_events)]
    assert [each["start_id"] for each in found] == ids
    assert [(each["state"], each["num_images"]) for each in found] == [
        ("stopped: SIGTERM", num_stopped),
        ("no end was written (killed?)", num_killed),
        ("finished", num_last),
    ]
    assert [each["cluster"]["cpus"] for each in found] == [2.0, 2.0, 2.0]
    assert found[2]["num_by_status"] == {"ok": num_last}
    assert found[2]["cpu_hours"] == pytest.approx(2 * found[2]["elapsed_s"] / 3600, abs=1e-3)
    # From Python the same.
    assert [each.to_dict() for each in open_run(output).starts] == [
        {name: value for name, value in each.items() if name != "run_id"} for each in found
    ]
    table = start("runs", output).wait().stdout.splitlines()
    assert [line.split()[0] for line in table] == ["start", "1", "2", "3"]


@pytest.mark.soak
def test_a_run_that_fails_says_so_in_an_event_and_in_its_record(start, base_env, tmp_path):
    run = LocalRun(start, base_env, tmp_path)
    hanging = Instructions(poison={str(number): ("decode", "hang") for number in range(NUM_LOCAL_IMAGES)})
    failed = run.annotate(hanging, "--stall-timeout-s", 5, "--image-timeout-s", 100, *AS_JSON).wait()
    assert (failed.exit_code, failed.stdout) == (1, "")
    error = assert_events(failed.stderr, str(run.output))[-1]
    assert (error["level"], "no progress" in error["event"]) == ("error", True), error
    (found,) = objects(start("runs", run.output, "--json").wait().stdout)
    assert (found["outcome"], found["num_images"]) == ("failed", 0)
    assert error["event"].startswith(found["error"])


@pytest.mark.s3
@pytest.mark.soak
def test_a_run_on_s3_is_watched_and_nothing_of_it_holds_a_secret(run, cluster, s3, start):
    annotating = run.annotate(*AS_JSON, address=cluster, instructions=Instructions(seconds=0.3))
    annotating.wait_until(lambda: run.num_committed() > 0)
    # Another machine has the same storage options and credentials, and nothing else.
    options = ("--storage-options", json.dumps({"endpoint_url": s3.endpoint}))
    watching = start("status", run.output, "--watch", "--json", *options, env=s3.env)
    finished, watched = annotating.wait(), watching.wait()
    assert finished.exit_code == 0, finished.stderr
    assert (watched.exit_code, watched.stderr) == (0, "")
    looks = objects(watched.stdout)
    done = [look["num_done"] for look in looks]
    assert 0 < done[0] < done[-1] == NUM_IMAGES
    assert done == sorted(done)
    assert 0 <= looks[0]["last_commit_age_s"] < 60
    assert {look["newest_start"]["start_id"] for look in looks} == {objects(finished.stdout)[0]["start_id"]}

    listed = start("runs", run.output, "--json", *options, env=s3.env).wait()
    (found,) = objects(listed.stdout)
    assert (found["state"], found["num_images"], found["ray_job_id"] is None) == ("finished", NUM_IMAGES, False)

    printed = [each.stdout + each.stderr for each in (finished, watched, listed)]
    bucket, _, prefix = run.output.removeprefix("s3://").partition("/")
    keys = s3.list_keys(bucket, f"{prefix}/")
    assert any("masks/_delta_log/" in key for key in keys)
    for secret in (s3.secret_key, run.env["RAY_AUTH_TOKEN"]):
        assert [text for text in printed if secret in text] == []
        assert [key for key in keys if secret.encode() in s3.get(bucket, key)] == []
