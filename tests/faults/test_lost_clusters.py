"""Clusters that are not there or refuse this program, in one line each, and those whose head comes back."""

import http.server
import socket
import time
from contextlib import contextmanager
from dataclasses import replace

import pytest

from tests import clusters
from tests.clusters import ray_head
from tests.faults.conftest import NUM_IMAGES
from tests.faults.fake_engine import Instructions
from tests.http_servers import serving
from tests.ports import LOOPBACK, free_ports

pytestmark = [pytest.mark.s3, pytest.mark.slow]

SLOW = Instructions(seconds=0.3)
REFUSED_S = 30


@contextmanager
def nobody():
    yield free_ports(1)[0]


@contextmanager
def one_who_is_silent():
    with socket.create_server((LOOPBACK, 0)) as server:
        yield server.getsockname()[1]


@contextmanager
def a_web_server():
    with serving(http.server.SimpleHTTPRequestHandler) as server:
        yield server.server_port


IN_CI = ("{}", nobody)
CASES = [(form, who) for form in ("{}", "ray://{}") for who in (nobody, one_who_is_silent, a_web_server)]


@pytest.mark.parametrize(
    ("form", "listener"), [pytest.param(*case, marks=[] if case == IN_CI else pytest.mark.soak) for case in CASES]
)
def test_an_address_without_a_cluster_is_refused_soon_with_one_line(run, form, listener):
    with listener() as port:
        address = form.format(f"{LOOPBACK}:{port}")
        finished = run.annotate(address=address).wait()
    assert_refused(finished, address)


@pytest.mark.soak
@pytest.mark.without_cluster
def test_where_no_cluster_is_found_it_is_said(run):
    assert_refused(run.annotate(address="auto").wait(), "auto")


@pytest.mark.soak
def test_a_wrong_token_is_refused_soon_with_one_line(run, cluster):
    strangers = replace(run, env={**run.env, "RAY_AUTH_TOKEN": "0" * 64})
    assert_refused(strangers.annotate(address=cluster).wait(), cluster)


def assert_refused(finished, address):
    assert finished.exit_code == 2, finished.stderr
    # What comes before is about planning.
    said = [line for line in finished.stderr.splitlines() if "Ray" in line]
    assert len(said) == 1, finished.stderr
    assert said[0].startswith(f"error: cannot connect to Ray at {address} (RAY_ADDRESS): ")
    assert said[0] == finished.stderr.splitlines()[-1]
    assert "Traceback" not in finished.stderr
    assert finished.elapsed_s < REFUSED_S, f"{finished.elapsed_s:.1f} s"
    print(f"{address}: {finished.elapsed_s:.1f} s, {said[0]}")


@pytest.mark.soak
@pytest.mark.parametrize("pause_s", [0, 80])
def test_with_restarts_a_run_goes_on_when_the_head_is_back(run, start, fault_env, monkeypatch, pause_s):
    with ray_head(start, fault_env, num_cpus=2) as head:
        program = run.annotate("--max-restarts", 1, address=head.address, instructions=SLOW)
        program.wait_until(lambda: run.num_committed() > 0)
    kept = run.num_committed()
    assert kept < NUM_IMAGES
    time.sleep(pause_s)
    port = int(head.address.rpartition(":")[2])
    monkeypatch.setattr(clusters, "free_ports", lambda number: [port, *free_ports(number - 1)])
    with ray_head(start, fault_env, num_cpus=2):
        finished = program.wait()
    assert finished.exit_code == 0, finished.stderr
    assert "starting again" in finished.stderr
    assert "***" not in finished.stderr
    run.assert_complete()
    print(finished.stderr)


@pytest.mark.soak
def test_a_head_that_is_replaced_unseen_is_noticed(run, start, fault_env, monkeypatch):
    """On a busy machine the driver learns of nothing until the new head answers: Ray then waits for ever."""
    with ray_head(start, fault_env, num_cpus=2) as head:
        program = run.annotate("--max-restarts", 1, address=head.address, instructions=SLOW)
        program.wait_until(lambda: run.num_committed() > 0)
        driver = program.driver()
        driver.suspend()
    port = int(head.address.rpartition(":")[2])
    monkeypatch.setattr(clusters, "free_ports", lambda number: [port, *free_ports(number - 1)])
    with ray_head(start, fault_env, num_cpus=2):
        driver.resume()
        finished = program.wait()
    assert finished.exit_code == 0, finished.stderr
    assert "starting again" in finished.stderr
    run.assert_complete()
