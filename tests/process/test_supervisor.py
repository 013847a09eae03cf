"""Programs that run under a supervisor, and what becomes of them and of it."""

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

PROGRAM = """
import json, os, signal, subprocess, sys, time
from sam_pipeline.cli import commands as cli
from sam_pipeline.process import supervised
from sam_pipeline.errors import RunFailedError
from sam_pipeline.pipeline import annotate
from sam_pipeline.pipeline.starting import restarts

def fail():
    raise RunFailedError("it stalled")

def run(config, make_display, start_id):
    starts = supervised.num_restarts()
    print(json.dumps([os.getpid(), starts, start_id]), flush=True)
    subprocess.Popen(["sleep", "1000"], start_new_session=True)
    os.write(2, b"*** raw ***\\n")
    deed = json.loads(os.environ["DEEDS"])[starts]
    if deed == "wait":
        time.sleep(1000)
    if deed == "block":  # as within a library
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
        subprocess.Popen(["kill", "-TERM", str(os.getpid())])
        time.sleep(1000)
    if deed == "restart and exit":
        restarts.restarting(config.max_restarts).copy(sleep=lambda _: os._exit(1))(fail)
    if deed == "fail":
        restarts.restarting(config.max_restarts)(fail)
    if deed == "exit":
        os._exit(1)
    if deed == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    raise SystemExit(deed)

annotate.annotate = run
cli.main()
"""


MARK = f"OF_A_TEST_OF_THE_SUPERVISOR_{os.getpid()}"
"""In the environment of all that a test starts, also in a session of its own. Other tests run beside it."""


class Supervised:
    def __init__(self, *deeds, flags=(), **options):
        command = [sys.executable, "-c", PROGRAM, "annotate", "--output", "o", *flags]
        env = os.environ | {"DEEDS": json.dumps(deeds), MARK: "1"}
        self.process = subprocess.Popen(
            command,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            **options,
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate(timeout=60)

    def child(self):
        pid, starts, self.start_id = json.loads(self.process.stdout.readline())
        return psutil.Process(pid), starts

    def end(self):
        _, err = self.process.communicate(timeout=60)
        return self.process.returncode, err


def is_anything_left(session):
    return [process for process in psutil.process_iter() if _is_of(process, session)]


def _is_of(process, session):
    try:
        is_alive = process.status() != psutil.STATUS_ZOMBIE
        return is_alive and (os.getsid(process.pid) == session or MARK in process.environ())
    except (psutil.Error, ProcessLookupError):
        return False


@pytest.mark.parametrize("code", [0, 1, 3])
def test_the_exit_code_is_the_childs_and_nothing_is_added(code):
    with Supervised(code) as program:
        assert program.end() == (code, "")


@pytest.mark.parametrize(
    ("deed", "reason"),
    [
        ("exit", "by Ray, most likely because the head of its cluster was lost"),
        ("crash", "by SIGSEGV"),
    ],
)
def test_what_ends_the_child_without_a_word_is_said_in_one_line(deed, reason):
    with Supervised(deed) as program:
        assert program.end() == (1, f"error: the run was ended {reason}; the same command resumes\n")
        assert is_anything_left(program.process.pid) == []


def test_it_starts_again_as_often_as_it_may():
    with Supervised("exit", "crash", 0, flags=("--max-restarts", "2")) as program:
        start_ids = set()
        for number in range(3):
            assert program.child()[1] == number
            start_ids.add(program.start_id)
        assert len(start_ids) == 1
        code, err = program.end()
        assert code == 0
        said = " ".join(err.split())
        assert "start 1 failed: the run was ended by Ray" in said
        assert said.endswith("start 2 failed: the run was ended by SIGSEGV; starting again")


@pytest.mark.parametrize(("last", "reason"), [("exit", "the run was ended by Ray"), ("fail", "it stalled")])
def test_restarts_in_a_child_and_of_children_count_together(last, reason):
    with Supervised("restart and exit", None, last, flags=("--max-restarts", "2")) as program:
        assert [program.child()[1] for _ in range(2)] == [0, 2]
        code, err = program.end()
        said = " ".join(err.split())
        assert code == 1
        assert "start 1 failed: it stalled" in said
        assert "start 2 failed: the run was ended by Ray" in said
        assert "start 3" not in said
        assert f"error: {reason}" in said


@pytest.mark.parametrize(
    ("number", "code", "times"), [(signal.SIGINT, 130, 1), (signal.SIGTERM, 143, 2), (signal.SIGHUP, 129, 1)]
)
def test_a_signal_ends_both_and_all_that_came_of_them(number, code, times):
    with Supervised("wait") as program:
        program.child()
        begin = time.monotonic()
        for _ in range(times):
            program.process.send_signal(number)
            time.sleep(0.1)
        how = "interrupted" if number == signal.SIGINT else f"ended by {number.name}"
        assert program.end() == (code, f"{how}; the same command resumes\n")
        assert time.monotonic() - begin < 3
        assert is_anything_left(program.process.pid) == []


def test_a_child_that_does_not_listen_is_ended_within_three_seconds():
    with Supervised("block") as program:
        program.child()
        begin = time.monotonic()
        program.process.terminate()
        assert program.end() == (143, "ended by SIGTERM; the same command resumes\n")
        assert time.monotonic() - begin < 3.5
        assert is_anything_left(program.process.pid) == []


def test_a_child_ends_with_its_parent():
    with Supervised("wait") as program:
        child, _ = program.child()
        program.process.kill()
        child.wait(5)
        assert is_anything_left(program.process.pid) == []


def test_with_debug_libraries_may_write_what_they_like():
    with Supervised(0, flags=("--debug",)) as program:
        assert program.end() == (0, "*** raw ***\n")


@pytest.mark.parametrize("delay_s", [0.3, 1.0])
def test_a_signal_that_comes_while_the_child_begins_is_not_lost_and_leaves_no_traceback(delay_s):
    with Supervised("wait") as program:
        time.sleep(delay_s)
        while not psutil.Process(program.process.pid).children():
            time.sleep(0.01)
        program.process.send_signal(signal.SIGINT)
        assert program.end() == (130, "interrupted; the same command resumes\n")
        assert is_anything_left(program.process.pid) == []
