"""Signals at every moment of a run: one line, the exit code, nothing left running, and the next start completes it."""

import os
import signal
import time

import pytest

from tests.clusters import ray_head
from tests.faults.conftest import ROOT
from tests.faults.fake_engine import Instructions
from tests.faults.local_run import NUM_IMAGES, LocalRun
from tests.processes import command_line

# CI ends processes by signals in tests/process/, and kills runs in test_driver_kills.py.
pytestmark = [pytest.mark.slow, pytest.mark.soak]

END_S = 3
"""From the signal to the end: `ray job stop` sends SIGKILL then."""
NOTHING_LEFT_S = 10

HANGING = Instructions(poison={"7": ("decode", "hang")})

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
LINES = {
    signal.SIGINT: "interrupted; the same command resumes",
    signal.SIGTERM: "ended by SIGTERM; the same command resumes",
    signal.SIGHUP: "ended by SIGHUP; the same command resumes",
}


@pytest.fixture
def run(start, base_env, tmp_path):
    return LocalRun(start, base_env, tmp_path)


def while_planning(run, program):
    program.wait_until(lambda: (run.output / "images").exists())


def while_ray_starts(run, program):
    program.wait_until(lambda: any("raylet" in member.name() for member in program.members()))


def in_mid_run(run, program):
    program.wait_until(lambda: run.num_committed() > 0)


def at_the_end(run, program):
    program.wait_until(lambda: run.num_committed() == NUM_IMAGES)


def in_the_isolation_pass(run, program):
    program.wait_until(lambda: "tried alone" in program.stderr())
    time.sleep(4)  # until the image hangs there


MOMENTS = [while_planning, while_ray_starts, in_mid_run, at_the_end, in_the_isolation_pass]


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("number", CODES)
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_signal_ends_a_run_fast_and_cleanly_and_the_next_start_completes_it(run, moment, number, times):
    hangs = (HANGING, "--image-timeout-s", 8) if moment is in_the_isolation_pass else ()
    program = run.annotate(*hangs)
    moment(run, program)
    assert_ends(program, number, times)
    run.assert_completed_by_another_start()


@pytest.mark.parametrize("number", CODES)
def test_a_signal_to_the_whole_process_group_does_the_same(run, number):
    """As from a terminal, by Ctrl-C or when it is closed."""
    program = run.annotate()
    in_mid_run(run, program)
    assert_ends(program, number, 1, send=lambda: os.killpg(program.process.pid, number))
    run.assert_completed_by_another_start()


def test_under_nohup_a_run_outlives_its_terminal(run):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        program = run.annotate()
    finally:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    in_mid_run(run, program)
    program.signal(signal.SIGHUP)
    finished = program.wait()
    assert finished.exit_code == 0, finished.stderr
    assert "annotated now  24\n" in finished.stdout


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_on_a_cluster_a_run_that_ends_leaves_the_cluster_and_none_of_its_workers(run, start, base_env, number):
    with ray_head(start, base_env | {"PYTHONPATH": str(ROOT)}, num_cpus=2) as head:
        before = len(head.program.members())
        program = run.annotate(HANGING, "--image-timeout-s", 8, address=head.address)
        in_the_isolation_pass(run, program)
        if number == signal.SIGKILL:
            program.kill()
        else:
            assert_ends(program, number, 1)
        ours = ("ray::Isolated", "ray::RunMonitor", "ray::MapBatches", "multiprocessing.spawn")
        deadline = time.monotonic() + NOTHING_LEFT_S
        while left := [
            line for line in map(command_line, head.program.members()) if any(each in line for each in ours)
        ]:
            assert time.monotonic() < deadline, left
            time.sleep(0.2)
        assert head.program.process.poll() is None
        assert len(head.program.members()) >= before
    run.assert_completed_by_another_start()


def assert_ends(program, number, times, send=None):
    begin = time.monotonic()
    for _ in range(times):
        (send or (lambda: program.signal(number)))()
        time.sleep(0.2)
    program.process.wait(60)
    took_s = time.monotonic() - begin
    while left := program.members():
        assert time.monotonic() - begin - took_s < NOTHING_LEFT_S, left
        time.sleep(0.05)
    left_s = time.monotonic() - begin - took_s
    ended = program.wait()
    assert ended.exit_code == CODES[number], ended.stderr
    assert ended.stderr.splitlines()[-1] == LINES[number], ended.stderr
    assert ended.stderr.count("resumes") == 1
    assert "Traceback" not in ended.stderr
    assert "***" not in ended.stderr
    assert took_s < END_S, f"{took_s:.1f} s"
    print(f"{signal.Signals(number).name} x {times}: end after {took_s:.1f} s, nothing left after {left_s:.1f} s more")
