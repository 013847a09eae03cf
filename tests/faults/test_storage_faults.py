"""Storage that throttles, resets, stalls, lies about lengths, loses answers or refuses."""

import pytest

from tests.faults.conftest import NUM_IMAGES
from tests.faults.fake_engine import Instructions, image_file
from tests.faults.proxy import TRANSIENT, Fault, RandomFaults, Rule, fault_proxy

pytestmark = [pytest.mark.s3, pytest.mark.slow]

COMMIT = r"/masks/_delta_log/\d{20}\.json"
SHARD = r"/masks/part-[0-9a-f]{8}-"


LARGE_SHARDS = ("--shard-rows", 10, "--commit-interval-s", 2)

EIGHT = tuple(fault for fault in TRANSIENT if fault is not Fault.SHORT_BODY)
"""Without bodies that are cut and whose length says otherwise: for delta-rs those are files that are damaged."""


@pytest.mark.soak
def test_with_three_requests_of_ten_failing_in_eight_ways_the_run_ends_complete(run, cluster):
    # One of the eight only hits what writes, which is one request in ten: it might not come by chance.
    lost = Rule(Fault.LOST_ANSWER, "PUT", SHARD, nth=2)
    with fault_proxy(run.s3, lost, random_faults=RandomFaults(0.3, seed=1, kinds=EIGHT), stall_s=30) as proxy:
        finished = run.through(proxy).annotate(*LARGE_SHARDS, address=cluster).wait()
        assert finished.exit_code == 0, finished.stderr
        assert set(proxy.faults) == set(EIGHT), "some kind never came"
        share = proxy.faults.total() / proxy.requests.total()
        assert 0.2 < share < 0.4
    run.assert_complete()


def test_a_commit_and_a_shard_whose_answers_are_lost_are_neither_lost_nor_done_twice(proxied, cluster):
    run, proxy = proxied
    lost = [(COMMIT, 1), (COMMIT, 2), (COMMIT, 5), (SHARD, 2)]
    proxy.rules += [Rule(Fault.LOST_ANSWER, "PUT", path, nth=nth) for path, nth in lost]
    finished = run.annotate(address=cluster).wait()
    assert finished.exit_code == 0, finished.stderr
    assert proxy.faults == {Fault.LOST_ANSWER: len(lost)}
    run.assert_complete()


def begun(run, cluster):
    """A running program that has committed some of its images."""
    program = run.annotate(address=cluster, instructions=Instructions(seconds=0.2))
    program.wait_until(lambda: run.num_committed() > 0)
    return program


@pytest.mark.soak
def test_access_denied_in_mid_run_stops_it_with_one_line_and_no_image_is_blamed(proxied, cluster):
    run, proxy = proxied
    program = begun(run, cluster)
    proxy.rules.append(Rule(Fault.ACCESS_DENIED))
    refused = program.wait()
    assert refused.exit_code == 2, refused.stderr
    last_line = refused.stderr.splitlines()[-1]
    assert last_line.startswith("error: ")
    assert "denied" in last_line.lower() or "403" in last_line
    proxy.rules.clear()
    assert 0 < run.num_committed() < NUM_IMAGES

    resumed = run.annotate(address=cluster).wait()
    assert resumed.exit_code == 0, resumed.stderr
    run.assert_complete()


@pytest.mark.soak
def test_an_outage_shorter_than_the_limit_is_waited_for(proxied, cluster):
    run, proxy = proxied
    program = begun(run, cluster)
    outage = Rule(Fault.INTERNAL_ERROR)
    proxy.rules.append(outage)
    program.wait_until(lambda: outage.matches >= 20)
    proxy.rules.clear()
    finished = program.wait()
    assert finished.exit_code == 0, finished.stderr
    run.assert_complete()


@pytest.mark.soak  # pipeline/test_inputs.py and workers/test_stages.py have it without Ray
def test_objects_changed_and_deleted_after_planning_end_as_rows(own_images, cluster):
    run, bucket = own_images
    planned = run.plan().wait()
    assert planned.exit_code == 0, planned.stderr
    run.s3.put(bucket, "images/000003.png", image_file(3) + b"more")
    run.s3.delete(bucket, "images/000005.png")
    finished = run.annotate(address=cluster).wait()
    assert finished.exit_code == 0, finished.stderr
    run.assert_complete(but={3: "changed", 5: "fetch_error"})
