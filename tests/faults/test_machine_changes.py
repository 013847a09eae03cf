"""Machines that join and leave in the middle of a run, and those that are still to come when it starts."""

import time
from contextlib import ExitStack

import pytest

from tests.clusters import ray_head, ray_node
from tests.faults.conftest import NUM_IMAGES
from tests.faults.fake_engine import Instructions

pytestmark = [pytest.mark.s3, pytest.mark.slow, pytest.mark.without_cluster]

SLOW = Instructions(seconds=2.0)
USED_WITHIN_S = 60


@pytest.mark.soak
def test_a_machine_that_joins_is_used_within_a_minute_and_one_that_leaves_costs_no_image(run, start, fault_env):
    with ray_head(start, fault_env, num_cpus=2) as head:
        program = run.annotate(address=head.address, instructions=SLOW)
        program.wait_until(lambda: run.num_committed() > 0)
        assert len(run.decoding_machines()) == 1
        with ray_node(start, fault_env, head, num_cpus=4):
            joined = time.monotonic()
            program.wait_until(lambda: len(run.decoding_machines()) > 1)
            used_after_s = time.monotonic() - joined
            assert run.num_committed() < NUM_IMAGES
        finished = program.wait()
    assert finished.exit_code == 0, finished.stderr
    assert "machines joined" in finished.stderr
    assert used_after_s < USED_WITHIN_S
    run.assert_complete()
    print(f"used after {used_after_s:.0f} s", finished.stderr)


GPU = ("--device", "cuda", "--encode-batch-size", 1)


@pytest.mark.soak
@pytest.mark.parametrize("are_asked_for", [True, False])
def test_gpus_that_join_are_used_and_one_that_leaves_costs_no_image(run, start, fault_env, are_asked_for):
    each = {"num_cpus": 2, "num_gpus": 1}
    with ExitStack() as machines:
        head = machines.enter_context(ray_head(start, fault_env, num_cpus=0))
        if are_asked_for:
            program = run.annotate(*GPU, "--gpus", 2, address=head.address, instructions=SLOW)
            program.wait_until(lambda: "0 of 2 GPUs are there" in program.stderr())
            first = machines.enter_context(ray_node(start, fault_env, head, **each))
        else:
            first = machines.enter_context(ray_node(start, fault_env, head, **each))
            program = run.annotate(*GPU, address=head.address, instructions=SLOW)
        program.wait_until(lambda: len(run.decoding_machines()) == 1)
        machines.enter_context(ray_node(start, fault_env, head, **each))
        program.wait_until(lambda: len(run.decoding_machines()) == 2)
        assert "2 GPUs are used from now on, 1 before" in program.stderr()
        first.kill()
        finished = program.wait()
    assert finished.exit_code == 0, finished.stderr
    run.assert_complete()
    print(finished.stderr)


def test_gpus_that_do_not_come_are_not_waited_for_longer_than_said(run, start, fault_env):
    with ray_head(start, fault_env, num_cpus=2) as head:
        finished = run.annotate(*GPU, "--gpus", 2, "--gpu-wait-s", 3, address=head.address).wait()
    assert finished.exit_code == 2
    assert finished.stderr.splitlines()[-1].startswith(
        "error: the cluster has 0 of the 1 GPUs that the run needs, after 3 s"
    )
