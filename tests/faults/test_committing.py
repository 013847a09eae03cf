"""Results are committed while a run runs, and a kill costs no more than is promised: real shapes, default settings.

What may be lost is in flight, in a shard that is not full, or waits for the next commit.
"""

import json
import random
import signal
import time
from collections import Counter
from dataclasses import asdict

import pytest

from tests.end_to_end.tables import num_committed
from tests.faults.conftest import ROOT
from tests.faults.fake_engine import Instructions, decoded_numbers, image_file

pytestmark = [pytest.mark.slow, pytest.mark.soak]

SECONDS = 0.4
NUM_IMAGES = 500
WATCHED_S = 60
COMMIT_INTERVAL_S = 10
SHARD_ROWS = 4
"""The defaults on CPUs."""

# How long a shard may take from its last image to the commit, beside the interval: a write, a poll, a commit.
_COMMIT_S = 3


def num_decoders(num_cpus):
    return max(1, num_cpus // 4)


def most_at_risk(num_cpus):
    """Images that are decoded and need not be committed: of an interval, one shard, and what is being written."""
    rate = num_decoders(num_cpus) / SECONDS
    return rate * (COMMIT_INTERVAL_S + _COMMIT_S) + 2 * SHARD_ROWS + num_decoders(num_cpus)


class LocalRun:
    """Fakes on a disk, annotated by a Ray of the run's own with the default settings."""

    def __init__(self, start, env, folder):
        self._start, self._env, self._folder = start, env, folder
        for name in ("images", "log"):
            (folder / name).mkdir()
        for number in range(NUM_IMAGES):
            (folder / "images" / f"{number:06}.png").write_bytes(image_file(number))

    def annotate(self, num_cpus):
        instructions = json.dumps(asdict(Instructions(seconds=SECONDS, log=str(self._folder / "log"))))
        flags = ("--input", self._folder / "images", "--output", self._folder / "out", "--model-type", "vit_t")
        command = ("-m", "tests.faults.fake_run", "annotate", *flags, "--num-cpus", num_cpus)
        return self._start(*command, script="python", env=self._env | {"FAKE_ENGINE": instructions})

    def decoded(self):
        return decoded_numbers(self._folder / "log")

    def num_committed(self):
        return num_committed(str(self._folder / "out"), {})

    def verify(self):
        verified = self._start("verify", self._folder / "out", env=self._env).wait()
        assert verified.exit_code == 0, verified.stdout + verified.stderr


@pytest.fixture
def run(start, base_env, tmp_path):
    return LocalRun(start, base_env | {"PYTHONPATH": str(ROOT)}, tmp_path)


@pytest.mark.parametrize("num_cpus", [1, 2, 4, 8])
def test_what_is_decoded_is_committed_while_the_run_runs(run, num_cpus):
    program = run.annotate(num_cpus)
    program.wait_until(lambda: len(run.decoded()) >= SHARD_ROWS)
    first_shard = time.monotonic()
    program.wait_until(lambda: run.num_committed() > 0)
    first_commit_s = time.monotonic() - first_shard
    most_waiting = 0
    while time.monotonic() - first_shard < WATCHED_S:
        num_decoded = len(run.decoded())  # before the commits are counted: only what was there then
        time.sleep(_COMMIT_S)
        most_waiting = max(most_waiting, num_decoded - run.num_committed())
    num_decoded = len(run.decoded())
    program.kill()
    print(
        f"{num_cpus} CPUs: first commit after {first_commit_s:.1f} s, at most {most_waiting} of {num_decoded} waiting"
    )
    assert num_decoded < NUM_IMAGES, "the run was watched to its end, where everything is committed"
    assert first_commit_s <= 10
    assert most_waiting <= most_at_risk(num_cpus)


def test_a_kill_costs_what_is_in_flight_and_an_interval(run):
    num_cpus, num_kills = 2, 5
    chance = random.Random(1)
    for kill in range(num_kills):
        before = Counter(run.decoded())
        program = run.annotate(num_cpus)
        program.wait_until(lambda before=before: len(run.decoded()) > before.total() + SHARD_ROWS)
        time.sleep(chance.uniform(0, 25))
        program.process.send_signal(signal.SIGKILL)
        program.kill()
        decoded_now = Counter(run.decoded()) - before
        lost = len(set(run.decoded())) - run.num_committed()
        print(f"kill {kill + 1}: {decoded_now.total()} decoded by this start, {lost} of them to be done again")
        assert lost <= most_at_risk(num_cpus)
    finished = run.annotate(num_cpus).wait()
    assert finished.exit_code == 0, finished.stderr
    redone = len(run.decoded()) - NUM_IMAGES
    assert redone <= num_kills * most_at_risk(num_cpus)
    run.verify()
