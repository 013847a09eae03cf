import logging
import signal
import sys
from types import SimpleNamespace

import pytest
import ray
from ray._private import worker

from sam_pipeline.errors import ClusterError, RunFailedError
from sam_pipeline.pipeline.machines import cluster
from sam_pipeline.pipeline.machines.cluster import check_cluster, connected, is_local, without_messages

TOO_SLOW = Exception("The current node timed out during startup. This could happen because of many things.")


@pytest.fixture
def init(monkeypatch):
    """Ray that raises, in turn, what a test puts into the list; at the list's end it starts."""
    outcomes = []

    def start(**_):
        outcome = outcomes.pop(0) if outcomes else None
        if callable(outcome):
            outcome()
        elif outcome is not None:
            raise outcome

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "init", start)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0})
    monkeypatch.setattr(ray, "nodes", list)
    monkeypatch.setattr(cluster, "has_gpu", lambda: False)
    monkeypatch.setattr(cluster, "_LOOK_INTERVAL_S", 0.01)
    return outcomes


def connect():
    with connected(None) as found:
        return found.num_cpus


def test_a_local_ray_that_starts_slowly_is_tried_again(init, caplog):
    init.append(TOO_SLOW)
    assert connect() == 2
    assert "Ray did not start (attempt 1 of 2): The current node timed out" in caplog.text


def test_a_ray_that_this_process_has_joined_is_not_local(init, monkeypatch):
    assert is_local()
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(worker, "_global_node", SimpleNamespace(is_head=lambda: True))
    assert is_local()
    monkeypatch.setattr(worker, "_global_node", SimpleNamespace(is_head=lambda: False))
    assert not is_local()


def test_what_ray_says_of_its_workers_is_logged_in_one_line_and_not_printed(init, capsys, caplog):
    caplog.set_level(logging.INFO)
    said = {"pid": "raylet", "is_err": False, "ip": "127.0.0.1", "job": None, "actor_name": None, "task_name": None}
    with connected(None):
        worker.print_to_stdstream(said | {"lines": ["A worker died.\n\tIts node"]}, ignore_prefix=False)
        with without_messages():
            worker.print_to_stdstream(said | {"lines": ["Another one died."]}, ignore_prefix=False)
    assert caplog.messages == ["Ray: A worker died. Its node"]
    assert capsys.readouterr() == ("", "")


def test_one_that_does_not_start_at_all_may_later(init):
    init += [TOO_SLOW, TOO_SLOW]
    with pytest.raises(
        RunFailedError, match=r"Ray did not start on this machine: The current node.*; the same command"
    ):
        connect()


def test_a_folder_with_too_long_a_name_for_sockets_is_named_with_the_remedy(init, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", "/a/very/long/folder")
    init.append(OSError("AF_UNIX path length cannot exceed 107 bytes: /a/very/long/folder/ray/session"))
    with pytest.raises(ClusterError, match=r"RAY_TMPDIR=/a/very/long/folder: set RAY_TMPDIR to a shorter and writable"):
        connect()
    assert init == []


@pytest.mark.parametrize(
    "error",
    [PermissionError(13, "Permission denied", "/var/ray"), OSError(28, "No space left on device"), ValueError("no")],
)
def test_what_will_not_pass_is_not_tried_again(init, error):
    init += [error, AssertionError("tried again")]
    with pytest.raises(ClusterError, match="cannot start Ray on this machine: "):
        connect()


def test_of_a_message_with_tracebacks_the_last_line_says_it(init, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    error = ConnectionError("Failed to connect")
    error.__cause__ = RuntimeError("Last error: Traceback (most recent call last):\n  File x\nray.X: wrong token\n")
    init.append(error)
    with pytest.raises(ClusterError, match=r"at auto \(RAY_ADDRESS\): ray\.X: wrong token; unset"):
        connect()


def test_the_address_of_a_cluster_that_is_gone_is_refused_before_ray_tries_it(init, monkeypatch, unused_address):
    init.append(AssertionError("Ray was asked"))
    for address in (unused_address, f"ray://{unused_address}"):
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(ClusterError, match=rf"at {address} .*: nobody answers \(.*refused\); start that"):
            connect()


def test_a_dashboard_is_no_cluster_to_connect_to(init, monkeypatch, unused_address):
    init.append(AssertionError("Ray was asked"))
    monkeypatch.setenv("RAY_ADDRESS", f"http://{unused_address}")
    with pytest.raises(ClusterError, match=r"no dashboard answers \(.*refused\); start that"):
        connect()
    monkeypatch.setattr(cluster, "_refusal", lambda _: None)
    with pytest.raises(
        ClusterError, match=rf"that is a dashboard; .*`ray job submit --address http://{unused_address} "
    ):
        connect()


@pytest.mark.parametrize("in_cause", [False, True])
def test_a_cluster_that_asks_for_a_token_says_how_to_give_it(init, monkeypatch, unused_address, in_cause):
    refusal = RuntimeError("InvalidAuthToken: Authentication token is missing or incorrect")
    error = RuntimeError("cannot connect") if in_cause else refusal
    error.__cause__ = refusal if in_cause else None
    init.append(error)
    monkeypatch.setenv("RAY_ADDRESS", unused_address)
    monkeypatch.setattr(cluster, "_refusal", lambda _: None)
    with pytest.raises(ClusterError, match=r"it asks for its token; set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN"):
        connect()


def test_a_cluster_that_answered_before_is_waited_for(init, monkeypatch, unused_address):
    monkeypatch.setenv("RAY_ADDRESS", unused_address)
    monkeypatch.setattr(cluster, "_joined", {unused_address})
    refusals = [OSError("refused"), OSError("refused"), None]
    monkeypatch.setattr(cluster, "_refusal", lambda _: refusals.pop(0))
    assert connect() == 2
    assert refusals == []


@pytest.fixture
def unused_address():
    from tests.ports import LOOPBACK, free_ports

    return f"{LOOPBACK}:{free_ports(1)[0]}"


def test_handlers_of_signals_stay_those_of_the_program(init):
    def handler(*_):
        pass

    before = signal.signal(signal.SIGTERM, handler)
    try:
        init.append(lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL))
        connect()
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_signal_that_ray_took_for_itself_reaches_the_program(init):
    seen = []
    before = signal.signal(signal.SIGTERM, lambda number, _: seen.append(number))
    try:
        init.append(lambda: sys.exit(signal.SIGTERM))
        connect()
        assert seen == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_another_cluster_at_the_same_address_is_noticed(monkeypatch):
    class Context:
        def get_node_id(self):
            return "ours"

    monkeypatch.setattr(ray, "get_runtime_context", Context)
    monkeypatch.setattr(ray, "nodes", lambda: [{"NodeID": "other"}, {"NodeID": "ours"}])
    check_cluster()
    monkeypatch.setattr(ray, "nodes", lambda: [{"NodeID": "other"}])
    with pytest.raises(RunFailedError, match="another one answers at its address"):
        check_cluster()
