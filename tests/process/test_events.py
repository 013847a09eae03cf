"""Standard error as JSON: all that any library writes to it is an event."""

import json
import subprocess
import sys
from datetime import UTC, datetime

import pytest

BEGIN = """
import logging, os, sys, threading, warnings
from rich.console import Console
from sam_pipeline.process import events, stopping
events.use_events()
logger = logging.getLogger("sam_pipeline")
logger.setLevel(logging.INFO)
"""


def events_of(deeds, code=0):
    """What a program says on standard error that does these deeds."""
    done = subprocess.run([sys.executable, "-c", BEGIN + deeds], capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done.stderr
    return [json.loads(line) for line in done.stderr.splitlines()]


def said(deeds, code=0):
    return [(each["level"], each["event"]) for each in events_of(deeds, code)]


def test_a_log_record_is_an_event_with_time_level_ids_and_figures():
    (event,) = events_of("""
events.name(run_id="r")
events.name(run_id="other", start_id="s")
logger.info("%d images", 3, extra={"figures": {"done": 3}})
""")
    assert abs((datetime.fromisoformat(event.pop("time")) - datetime.now(UTC)).total_seconds()) < 60
    assert event == {"level": "info", "event": "3 images", "run_id": "r", "start_id": "s", "done": 3}


@pytest.mark.parametrize(
    ("deeds", "expected"),
    [
        ("print('one', 'two', file=sys.stderr)", [("info", "one two")]),
        ("print('error: it broke', file=sys.stderr)", [("error", "it broke")]),
        ("sys.stderr.write('a '); sys.stderr.write('b'); sys.stderr.write(' c\\n')", [("info", "a b c")]),
        ("sys.stderr.write('first\\nsecond\\n')", [("info", "first second")]),
        (
            "sys.stderr.write('careful\\nat 10 %\\r'); sys.stderr.write('over\\n')",
            [("info", "careful"), ("info", "over")],
        ),
        ("[sys.stderr.write(f'\\r{share} %') for share in (1, 50, 100)]; sys.stderr.write('\\n')", [("info", "100 %")]),
        ("Console(stderr=True, force_terminal=True).print('[red]red[/red]')", [("info", "red")]),
        ("warnings.warn('old')", [("info", "<string>:8: UserWarning: old")]),
        ("logging.getLogger('other').error('broke\\nhere')", [("error", "broke here")]),
        ("logging.getLogger('other').info('not asked for')", []),
        ("print(' \\n\\n', file=sys.stderr)", []),
    ],
)
def test_whatever_is_written_is_an_event(deeds, expected):
    assert said(deeds) == expected


def test_credentials_and_what_does_not_print_are_kept_out():
    found = events_of("""
logger.warning("at https://user:canary@host/a?sig=canary\\x1b[2J")
try:
    raise ValueError("Authorization: canary\\nx-amz-security-token: canary")
except ValueError:
    logger.error("it broke", exc_info=True)
print("see s3://me:canary@bucket/key", file=sys.stderr)
""")
    assert "canary" not in json.dumps(found)
    assert found[0]["event"] == "at https://host/a"
    assert found[1]["traceback"].startswith("Traceback (most recent call last):\n")
    assert "ValueError: " in found[1]["traceback"]


def test_an_error_that_nobody_catches_is_of_events_too():
    found = said("raise ValueError('it broke')", code=1)
    assert ("info", "ValueError: it broke") in found


def test_the_last_line_of_a_program_that_is_ended_is_an_event():
    assert said("stopping.end(7, 'ended by SIGTERM')", code=7) == [("warning", "ended by SIGTERM")]
    assert said("stopping.end(2, 'error: no answer')", code=2) == [("error", "no answer")]


def test_threads_do_not_mix_their_lines():
    found = said("""
def write(number):
    for _ in range(200):
        print("x" * 50, file=sys.stderr)
threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
for each in threads: each.start()
for each in threads: each.join()
""")
    assert sum(text.count("x") for _, text in found) == 4 * 200 * 50


def test_a_reader_that_goes_away_ends_nothing():
    program = (
        BEGIN
        + """
import time
print("first", file=sys.stderr, flush=True)
sys.stdin.read()
for _ in range(3):
    logger.warning("nobody reads")
print("done")
"""
    )
    command = [sys.executable, "-c", program]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as running:
        assert json.loads(running.stderr.readline())["event"] == "first"
        running.stderr.close()
        running.stdin.close()
        assert running.stdout.read() == "done\n"
    assert running.returncode == 0
