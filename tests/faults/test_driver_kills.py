"""Drivers that are killed, stopped and overtaken at named points of the protocol.

A named point is a request at the S3 server: the proxy in front of it kills whoever sends the request, before the
server has seen it or after the server has done it.
"""

import os
import signal
from collections import Counter

import pytest

from tests.faults.conftest import NUM_IMAGES
from tests.faults.proxy import Rule, kill

pytestmark = [pytest.mark.s3, pytest.mark.slow]

COMMIT = r"/masks/_delta_log/\d{20}\.json"
COMPACTED = {"method": "PUT", "path": r"/masks/part-", "client": "fake_run"}

POINTS = {
    "after the plan": {"method": "PUT", "path": r"/images/_delta_log/\d{19}1\.json", "after": True},
    "before the results table": {"method": "PUT", "path": COMMIT, "nth": 1},
    "before its epoch": {"method": "PUT", "path": COMMIT, "nth": 2},
    "between PUT and commit": {"method": "PUT", "path": COMMIT, "nth": 5},
    "after a commit": {"method": "PUT", "path": COMMIT, "nth": 5, "after": True},
    "before compaction's file": COMPACTED,
    "between compaction's file and its commit": COMPACTED | {"after": True},
}
"""The driver sends these requests: version 0 creates a table, version 1 takes the epoch or holds the plan."""

ROOM_FOR_TWO = ("--encode-cpus", 0.2, "--decode-cpus", 0.3)
"""Small enough that the actors of two drivers fit."""


IN_CI = {"between PUT and commit"}


@pytest.mark.parametrize(
    "point", [pytest.param(point, marks=[] if point in IN_CI else pytest.mark.soak) for point in POINTS]
)
def test_a_driver_killed_at_a_point_is_resumed_and_nothing_is_lost_or_done_twice(proxied, cluster, point):
    run, proxy = proxied
    proxy.rules.append(Rule(kill, **POINTS[point]))
    killed = run.annotate(address=cluster).wait()
    assert killed.exit_code == 1, killed.stderr
    assert "the run was ended by SIGKILL" in killed.stderr.splitlines()[-1]
    proxy.rules.clear()
    kept, decoded = run.committed_ids(), Counter(run.decoded_numbers())

    resumed = run.annotate("--encode-cpus", 0.3, address=cluster).wait()
    assert resumed.exit_code == 0, resumed.stderr
    assert f"annotated now  {NUM_IMAGES - len(kept)}\n" in resumed.stdout
    run.assert_complete()
    assert all(count == decoded[number] for number, count in Counter(run.decoded_numbers()).items() if number in kept)


@pytest.mark.soak
def test_a_driver_stopped_before_a_commit_and_overtaken_stops_for_good_and_says_so(proxied, cluster):
    run, proxy = proxied
    stopped = []
    proxy.rules.append(Rule(lambda pid: stop(pid, stopped), "PUT", COMMIT, nth=4))
    overtaken = run.annotate(address=cluster)
    overtaken.wait_until(lambda: stopped)
    driver = overtaken.driver()
    assert stopped == [driver.pid]

    # On a Ray of its own: a stopped driver keeps its workers, and they their CPUs.
    newer = run.annotate("--num-cpus", 2).wait()
    assert newer.exit_code == 0, newer.stderr
    driver.resume()
    fenced = overtaken.wait()
    assert fenced.exit_code == 3, fenced.stderr
    assert "another run took over" in fenced.stderr.splitlines()[-1]
    run.assert_complete()


def stop(pid, stopped):
    os.kill(pid, signal.SIGSTOP)
    stopped.append(pid)


@pytest.mark.soak  # test_commit_protocol.py has random orders of two drivers
def test_of_two_drivers_at_once_one_ends_and_the_other_says_that_it_was_overtaken(run, cluster):
    programs = [run.annotate(*ROOM_FOR_TWO, address=cluster) for _ in range(2)]
    finished = [program.wait() for program in programs]
    assert sorted(each.exit_code for each in finished) == [0, 3], [each.stderr for each in finished]
    run.assert_complete()
