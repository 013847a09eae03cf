"""Workers, actors and nodes that are lost in mid-run: the run goes on, or is resumed."""

from dataclasses import replace

import pytest

from tests.clusters import ray_head, ray_node
from tests.faults.conftest import NUM_IMAGES
from tests.faults.fake_engine import Instructions
from tests.faults.proxy import Rule, kill

pytestmark = [pytest.mark.s3, pytest.mark.slow]

IMAGE = r"/images/0000\d\d\.png"
SHARD = r"/masks/part-[0-9a-f]{8}-"

SLOW = Instructions(seconds=0.2)
"""Slow enough that a run can be caught in its middle."""

SMALL_ACTORS = ("--encode-cpus", 0.3, "--decode-cpus", 0.5)


def test_workers_killed_in_every_stage_cost_nothing(proxied, cluster, tmp_path):
    run, proxy = proxied
    once = {name: tmp_path / name for name in ("encode", "decode", "constructor")}
    for file in once.values():
        file.touch()
    poison = {"5": ("encode", "crash", str(once["encode"])), "21": ("decode", "crash", str(once["decode"]))}
    proxy.rules += [
        Rule(kill, "GET", IMAGE, nth=10),
        Rule(kill, "PUT", SHARD, nth=2),
        Rule(kill, "PUT", SHARD, nth=5, after=True),
    ]
    instructions = Instructions(poison=poison, crash_in_constructor=str(once["constructor"]))
    finished = run.annotate(address=cluster, instructions=instructions).wait()
    assert finished.exit_code == 0, finished.stderr
    assert not any(file.exists() for file in once.values()), "a worker that should have crashed did not"
    assert [rule.matches >= rule.nth for rule in proxy.rules] == [True] * 3, proxy
    run.assert_complete()


@pytest.mark.soak
def test_a_node_lost_without_grace_costs_nothing(run, start, fault_env):
    with ray_head(start, fault_env, num_cpus=1) as head, ray_node(start, fault_env, head, num_cpus=1) as node:
        program = run.annotate(*SMALL_ACTORS, "--decode-actors", 2, address=head.address, instructions=SLOW)
        program.wait_until(lambda: run.num_committed() > 0)
        node.kill()
        assert run.num_committed() < NUM_IMAGES, "it was lost too late to show anything"
        finished = program.wait()
        assert finished.exit_code == 0, finished.stderr
    run.assert_complete()


@pytest.mark.soak
def test_a_machine_with_a_gpu_that_is_lost_for_good_costs_half_of_the_stall_timeout(run, start, fault_env):
    gpu = {"num_cpus": 2, "num_gpus": 1}
    with ray_head(start, fault_env, **gpu) as head, ray_node(start, fault_env, head, **gpu) as node:
        flags = ("--encode-batch-size", 2, "--stall-timeout-s", 160)
        program = run.annotate(*flags, address=head.address, instructions=SLOW)
        program.wait_until(lambda: run.num_committed() > 0)
        node.kill()
        assert run.num_committed() < NUM_IMAGES, "it was lost too late to show anything"
        finished = program.wait()
        assert finished.exit_code == 0, finished.stderr
        assert "expected bottleneck" in finished.stderr
    run.assert_complete()


@pytest.mark.soak
def test_a_lost_head_ends_the_run_and_with_a_new_one_it_is_resumed(run, start, fault_env):
    env = fault_env | {"RAY_gcs_rpc_server_reconnect_timeout_s": "5"}  # else the driver waits for a minute
    with ray_head(start, env, num_cpus=2) as head:
        program = replace(run, env=env).annotate(address=head.address, instructions=SLOW)
        program.wait_until(lambda: run.num_committed() > 0)
        head.program.kill()
        failed = program.wait()
        assert failed.exit_code == 1, failed.stdout
        assert "by Ray, most likely because the head of its cluster was lost" in failed.stderr.splitlines()[-1]
        assert "the same command resumes" in failed.stderr.splitlines()[-1]
    kept = run.num_committed()
    assert 0 < kept < NUM_IMAGES
    resumed = run.annotate("--num-cpus", 2).wait()
    assert resumed.exit_code == 0, resumed.stderr
    assert f"annotated now  {NUM_IMAGES - kept}\n" in resumed.stdout
    run.assert_complete()


@pytest.mark.soak
def test_an_object_store_smaller_than_the_embeddings_in_flight_spills_or_waits(run, start, fault_env):
    with ray_head(start, fault_env, num_cpus=2, object_store_bytes=80 * 2**20) as head:
        finished = run.annotate(address=head.address).wait()
        assert finished.exit_code == 0, finished.stderr
    run.assert_complete()


@pytest.fixture
def stalling(tmp_path):
    """What makes a run stall once, by an image that hangs: flags, instructions, a file that is gone afterwards."""
    once = tmp_path / "once"
    once.touch()
    hanging = Instructions(poison={"7": ("decode", "hang", str(once))})
    return ("--stall-timeout-s", 6, "--image-timeout-s", 60), hanging, once


@pytest.mark.soak
def test_a_run_that_stalls_fails_loudly_and_can_be_resumed(run, cluster, stalling):
    limits, hanging, _ = stalling
    stalled = run.annotate(*limits, address=cluster, instructions=hanging).wait()
    assert stalled.exit_code == 1, stalled.stderr
    assert "made no progress" in stalled.stderr.splitlines()[-1]
    assert "the same command resumes" in stalled.stderr.splitlines()[-1]

    resumed = run.annotate(address=cluster).wait()
    assert resumed.exit_code == 0, resumed.stderr
    run.assert_complete()


@pytest.mark.soak
def test_a_run_that_stalls_starts_again_by_itself_if_told_to(run, cluster, stalling):
    limits, hanging, once = stalling
    restarted = run.annotate(*limits, "--max-restarts", 1, address=cluster, instructions=hanging).wait()
    assert restarted.exit_code == 0, restarted.stderr
    assert not once.exists()
    assert "starting again" in restarted.stderr
    run.assert_complete()
