"""`--log-format json` of whole commands; of a run in progress: tests/faults/test_records.py."""

import json
import subprocess
import sys

import pytest

from sam_pipeline.storage.run_ids import run_id
from tests.storage.runs import failed_row, finished, row


def run(*arguments):
    """Exit code, standard output, and the events on standard error."""
    command = [sys.executable, "-m", "sam_pipeline", *map(str, arguments), "--log-format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout, [json.loads(line) for line in done.stderr.splitlines()]


def the_event(*arguments, code=2):
    """The only event of a command that says nothing else."""
    found, out, events = run(*arguments)
    assert (found, out, len(events)) == (code, "", 1), events
    return events[0]


def test_an_error_is_an_event_of_its_run(tmp_path):
    event = the_event("verify", tmp_path / "none")
    assert event.keys() == {"time", "level", "event", "run_id"}
    assert (event["level"], event["event"]) == ("error", f"no plan in {tmp_path}/none")
    assert event["run_id"] == run_id(f"{tmp_path}/none")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--colour", "red"], "Unrecognized options: --colour, red"),
        (["--points-per-side", "0"], "points_per_side must be at least 1, got 0"),
        (["--input", "/none"], "input not found: /none"),
    ],
)
def test_a_start_has_its_ids_from_the_first_line(tmp_path, flags, words):
    event = the_event("annotate", "--output", tmp_path / "run", *flags)
    assert event["level"] == "error"
    assert words in event["event"]
    assert event["run_id"] == run_id(f"{tmp_path}/run")
    assert len(event["start_id"]) == 32


def test_an_output_may_be_named_in_other_ways(tmp_path):
    (tmp_path / "run.toml").write_text(f'output = "{tmp_path}/run"\ninput = "/none"\n')
    expected = run_id(f"{tmp_path}/run")
    assert the_event("annotate", "--config", tmp_path / "run.toml")["run_id"] == expected
    assert the_event("plan", f"--output={tmp_path}/run/", "--input", "/none")["run_id"] == expected


def test_a_traceback_is_a_field(tmp_path):
    event = the_event("plan", "--output", tmp_path / "run", "--input", "/none", "--debug")
    assert event["event"] == "input not found: /none"
    assert event["traceback"].splitlines()[-1].endswith("InputError: input not found: /none")


def test_credentials_are_in_no_event():
    event = the_event("annotate", "--input", "s3://user:canary@bucket/in", "--output", "s3://user:canary@bucket/run")
    assert "canary" not in json.dumps(event)
    assert "run_id" not in event


@pytest.mark.parametrize("command", ["verify", "status", "stats"])
def test_a_summary_is_one_object(tmp_path, command):
    finished(str(tmp_path), [row(0), failed_row(1)])
    code, out, events = run(command, tmp_path)
    assert (code, events, out.count("\n")) == (0, [], 1)
    assert isinstance(json.loads(out), dict)


def test_what_a_command_says_beside_its_summary_is_events(tmp_path):
    finished(str(tmp_path / "run"), [row(0)], num_images=2)
    code, out, events = run("verify", tmp_path / "run")
    assert (code, json.loads(out)["left"]) == (1, 1)
    assert events[0]["event"].startswith("left to do: 1 of 2 images")


def test_commands_without_an_output_name_no_run():
    event = the_event("weights", "verify", "none.pth")
    assert event.keys() == {"time", "level", "event"}
