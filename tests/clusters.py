"""Ray clusters of one or several nodes on this machine, as `ray start` makes them, with token authentication."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.ports import LOOPBACK, free_ports
from tests.processes import Program, Start

_OBJECT_STORE_BYTES = 2**28


@dataclass(frozen=True)
class Head:
    """A running head node."""

    program: Program
    address: str
    """For RAY_ADDRESS and for other nodes."""
    dashboard: str
    """For `ray job submit`."""


@contextmanager
def ray_head(
    start: Start,
    env: Mapping[str, str],
    num_cpus: float,
    object_store_bytes: int = _OBJECT_STORE_BYTES,
    num_gpus: int = 0,
) -> Iterator[Head]:
    """Run a head node; everything that it started is killed in the end. GPUs are logical ones."""
    names = ["port", "dashboard-port", "ray-client-server-port", "dashboard-agent-listen-port"]
    ports = free_ports(len(names))
    flags = [f"--{name}={port}" for name, port in zip(names, ports, strict=True)]
    flags += [f"--dashboard-host={LOOPBACK}", f"--temp-dir={env['RAY_TMPDIR']}/ray", "--disable-usage-stats"]
    program = _node(start, env, num_cpus, object_store_bytes, f"--num-gpus={num_gpus}", "--head", *flags)
    head = Head(program, f"{LOOPBACK}:{ports[0]}", f"http://{LOOPBACK}:{ports[1]}")
    try:
        program.wait_until(lambda: _answers(f"{head.dashboard}/api/jobs/", env["RAY_AUTH_TOKEN"]))
        program.wait_until(lambda: _num_nodes(head, env["RAY_AUTH_TOKEN"]) > 0)
        yield head
    finally:
        program.kill()


@contextmanager
def ray_node(
    start: Start,
    env: Mapping[str, str],
    head: Head,
    num_cpus: float,
    object_store_bytes: int = _OBJECT_STORE_BYTES,
    num_gpus: int = 0,
) -> Iterator[Program]:
    """Run one more node; it may be killed at any time."""
    before = _num_nodes(head, env["RAY_AUTH_TOKEN"])
    flags = (f"--num-gpus={num_gpus}", f"--address={head.address}")
    program = _node(start, env, num_cpus, object_store_bytes, *flags)
    try:
        program.wait_until(lambda: _num_nodes(head, env["RAY_AUTH_TOKEN"]) > before)
        yield program
    finally:
        program.kill()


def _node(start: Start, env: Mapping[str, str], num_cpus: float, object_store_bytes: int, *flags: str) -> Program:
    common = [f"--node-ip-address={LOOPBACK}", f"--num-cpus={num_cpus}", f"--object-store-memory={object_store_bytes}"]
    return start("start", *flags, *common, "--block", script="ray", env=env)


def _num_nodes(head: Head, token: str) -> int:
    """How many nodes joined, dead ones included."""
    with _open(f"{head.dashboard}/nodes?view=summary", token) as answer:
        return len(json.load(answer)["data"]["summary"])


def _answers(url: str, token: str) -> bool:
    """Whether a dashboard is there and takes the token."""
    try:
        with _open(url, token):
            return True
    except urllib.error.HTTPError as error:
        error.close()
        return False
    except OSError:
        return False


def _open(url: str, token: str) -> Any:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    return urllib.request.urlopen(request, timeout=5)
