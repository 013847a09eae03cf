import os
import signal
import subprocess
import sys
import threading

import pytest

from sam_pipeline.process import stopping
from sam_pipeline.process.stopping import end_if_command_line, ends_on_signals, shielded

PROGRAM = """
import os, signal, sys, time
from sam_pipeline.process import stopping

@stopping.ends_on_signals
def main():
    try:
        {}
    except KeyboardInterrupt:
        print(stopping.last_words())
        sys.exit(stopping.exit_code())
    print("went on")
    sys.exit(0)

main()
"""
NUMBERS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


def run(deed, ignored=()):
    def ignore():
        for number in ignored:
            signal.signal(number, signal.SIG_IGN)

    command = [sys.executable, "-c", PROGRAM.format(deed)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, preexec_fn=ignore)
    return done.returncode, done.stdout, done.stderr


def send(number):
    return f"os.kill(os.getpid(), {int(number)})"


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_is_raised_where_the_program_is(number):
    how = "interrupted" if number == signal.SIGINT else f"ended by {number.name}"
    assert run(send(number)) == (NUMBERS[number], f"{how}; the same command resumes\n", "")


def test_a_second_one_does_not_disturb_the_end():
    twice = f"try: {send(15)}\n        finally: {send(15)}; {send(2)}; print('in order')"
    assert run(twice) == (143, "in order\nended by SIGTERM; the same command resumes\n", "")


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT])
def test_one_that_was_ignored_stays_so(number):
    assert run(send(number), ignored=[number]) == (0, "went on\n", "")


def test_in_a_shield_it_waits_for_the_end_of_the_shield():
    shield = f"with stopping.shielded(): {send(15)}; print('done', flush=True)"
    assert run(shield) == (143, "done\nended by SIGTERM; the same command resumes\n", "")


def test_where_the_program_is_stuck_it_ends_all_the_same():
    stuck = f"with stopping.shielded(): {send(15)}; time.sleep(1000)"
    assert run(stuck) == (143, "", "ended by SIGTERM; the same command resumes\n")


def test_afterwards_the_handlers_are_those_of_before():
    before = [signal.getsignal(number) for number in NUMBERS]
    assert ends_on_signals(lambda: [signal.getsignal(number) for number in NUMBERS])() != before
    assert [signal.getsignal(number) for number in NUMBERS] == before
    assert not stopping.is_stopping()


def test_outside_of_the_main_thread_it_only_runs():
    results = []
    thread = threading.Thread(target=lambda: results.append(ends_on_signals(lambda: 7)()))
    thread.start()
    thread.join()
    assert results == [7]


def test_a_program_of_somebody_else_is_never_ended():
    end_if_command_line(2, "error: too late")
    with shielded():
        assert os.getpid()
