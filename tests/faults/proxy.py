"""A proxy in front of the S3 server that breaks requests on purpose, and that stops clients at named points.

Requests go through as they came, Host included, so that the signatures of clients stay valid.
"""

from __future__ import annotations

import asyncio
import io
import os
import random
import re
import signal
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from enum import StrEnum

import aiohttp
import psutil
import yarl
from aiohttp import web

from tests.ports import LOOPBACK, free_ports
from tests.s3_server import S3Server


class Fault(StrEnum):
    """What can go wrong with a request."""

    SLOW_DOWN = "503 SlowDown"
    INTERNAL_ERROR = "500 InternalError"
    TOO_MANY_REQUESTS = "429 TooManyRequests"
    ACCESS_DENIED = "403 AccessDenied"
    RESET = "connection reset before the answer; the server never saw the request"
    RESET_IN_BODY = "connection reset after half of the body"
    SHORT_BODY = "half of the body, with a Content-Length that fits it"
    STALLED_HEADERS = "no answer for stall_s"
    STALLED_BODY = "half of the body, then nothing for stall_s"
    LOST_ANSWER = "the server did it, but the connection is reset before the answer"


TRANSIENT = tuple(fault for fault in Fault if fault is not Fault.ACCESS_DENIED)

_IN_BODY = {Fault.RESET_IN_BODY, Fault.SHORT_BODY, Fault.STALLED_BODY}
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "expect"}

Action = Callable[[int], object]
"""Called with the process id of the client, in a thread."""


def kill(pid: int) -> None:
    """The action that ends the client as a power cut would."""
    os.kill(pid, signal.SIGKILL)


@dataclass
class Rule:
    """What to do to requests that match."""

    do: Fault | Action
    method: str = ""
    """GET, PUT, ...; empty for any."""
    path: str = ""
    """Regular expression, searched in the raw path with its query."""
    client: str = ""
    """Regular expression, searched in the command line of the process that asks."""
    nth: int | None = None
    """Only the n-th match, counted from 1; None for every one."""
    after: bool = False
    """For an action: call it when the server has done the request, and pass the answer on. Otherwise it is called
    before, and the connection is reset without the server having seen the request."""
    matches: int = 0

    def applies_to(self, request: web.BaseRequest) -> bool:
        """Count this request if it matches; whether something is to be done to it."""
        if self.method not in ("", request.method) or not re.search(self.path, request.raw_path):
            return False
        if self.client and not re.search(self.client, " ".join(psutil.Process(_client_pid(request)).cmdline())):
            return False
        self.matches += 1
        return self.nth in (None, self.matches)


@dataclass(frozen=True)
class RandomFaults:
    """A fault for each request with a probability; faults in bodies hit only GET, lost answers only PUT and POST."""

    rate: float
    seed: int = 0
    kinds: Sequence[Fault] = TRANSIENT

    def draw(self, generator: random.Random, method: str) -> Fault | None:
        """Decide about one request; always takes two numbers, so that later decisions do not depend on its method."""
        hit, choice = generator.random() < self.rate, generator.random()
        possible = [kind for kind in self.kinds if _is_possible(kind, method)]
        return possible[int(choice * len(possible))] if hit and possible else None


NO_RANDOM_FAULTS = RandomFaults(rate=0)


def _is_possible(fault: Fault, method: str) -> bool:
    if fault in _IN_BODY:
        return method == "GET"
    return fault is not Fault.LOST_ANSWER or method in ("PUT", "POST")


@dataclass
class FaultProxy:
    """A running proxy. Rules may be added and removed at any time: the list is read at every request."""

    server: S3Server
    """The server as seen through the proxy."""
    rules: list[Rule]
    random_faults: RandomFaults
    stall_s: float
    requests: Counter[str] = field(default_factory=Counter)
    """By method."""
    num_lists: int = 0
    """How many of those by GET list keys."""
    faults: Counter[Fault] = field(default_factory=Counter)

    @property
    def endpoint(self) -> str:
        """URL of the proxy."""
        return self.server.endpoint


@contextmanager
def fault_proxy(
    server: S3Server, *rules: Rule, random_faults: RandomFaults = NO_RANDOM_FAULTS, stall_s: float = 60
) -> Iterator[FaultProxy]:
    """Run a proxy in a thread. The first rule that applies decides; random faults hit what no rule applies to.

    A client in this process must not hold the GIL while it waits, which deltalake's history does: see delta_steps.py.
    """
    (port,) = free_ports(1)
    proxied = replace(server, endpoint=f"http://{LOOPBACK}:{port}")
    proxy = FaultProxy(proxied, list(rules), random_faults, stall_s)
    loop = asyncio.new_event_loop()
    started, stop = threading.Event(), asyncio.Event()

    def run() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:  # cancels what is still stalled in the end
            runner.run(_serve(proxy, server.endpoint, port, started, stop))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    if not started.wait(10):
        raise RuntimeError(f"the proxy did not start on port {port}")
    try:
        yield proxy
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()


async def _serve(proxy: FaultProxy, upstream: str, port: int, started: threading.Event, stop: asyncio.Event) -> None:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as session:
        handler = _Handler(proxy, upstream, session)
        protocol = web.Server(handler.handle, access_log=None)
        listener = await asyncio.get_running_loop().create_server(protocol, LOOPBACK, port, backlog=1024)
        started.set()
        await stop.wait()
        listener.close()
        await protocol.shutdown(0.1)  # 0 would mean to wait for every request


class _Handler:
    def __init__(self, proxy: FaultProxy, upstream: str, session: aiohttp.ClientSession) -> None:
        self._proxy = proxy
        self._upstream = upstream
        self._session = session
        self._generator = random.Random(proxy.random_faults.seed)

    async def handle(self, request: web.BaseRequest) -> web.Response:
        method = request.method
        self._proxy.requests[method] += 1
        self._proxy.num_lists += method == "GET" and "list-type=" in request.query_string
        if request.headers.get("Expect", "").lower() == "100-continue":
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await request.content.read()  # not request.read(), which has a limit
        rule = next((rule for rule in list(self._proxy.rules) if rule.applies_to(request)), None)
        fault = self._proxy.random_faults.draw(self._generator, method)
        if rule is not None and not isinstance(rule.do, Fault):
            return await self._at_point(request, body, rule)
        if rule is not None:
            fault = rule.do
        if fault is None:
            return await self._forward(request, body)
        self._proxy.faults[fault] += 1
        return await self._break(request, body, fault)

    async def _forward(self, request: web.BaseRequest, body: bytes) -> web.Response:
        url = yarl.URL(self._upstream + request.raw_path, encoded=True)
        headers = [(name, value) for name, value in request.headers.items() if name.lower() not in _HOP_BY_HOP]
        own = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")
        data = io.BytesIO(body)  # aiohttp warns of large bytes, and warnings are errors in tests
        async with self._session.request(
            request.method, url, headers=headers, data=data, skip_auto_headers=own, allow_redirects=False
        ) as answer:
            content = await answer.read()
            kept = [(name, value) for name, value in answer.headers.items() if name.lower() not in _HOP_BY_HOP]
            if request.method == "HEAD" and "Content-Length" in answer.headers:
                kept.append(("Content-Length", answer.headers["Content-Length"]))
            return web.Response(status=answer.status, headers=kept, body=content)

    async def _at_point(self, request: web.BaseRequest, body: bytes, rule: Rule) -> web.Response:
        pid = _client_pid(request)
        if not rule.after:
            await asyncio.to_thread(rule.do, pid)
            return _reset(request)
        answer = await self._forward(request, body)
        await asyncio.to_thread(rule.do, pid)
        return answer

    async def _break(self, request: web.BaseRequest, body: bytes, fault: Fault) -> web.Response:
        if fault.value[:3].isdigit():
            return _error(fault)
        if fault is Fault.STALLED_HEADERS:
            await asyncio.sleep(self._proxy.stall_s)
        if fault in (Fault.STALLED_HEADERS, Fault.RESET):
            return _reset(request)
        answer = await self._forward(request, body)
        if fault is Fault.LOST_ANSWER:
            return _reset(request)
        half = answer.body[: len(answer.body) // 2]
        if fault is Fault.SHORT_BODY:
            return web.Response(status=answer.status, headers=_without_length(answer), body=half)
        # A body shorter than its Content-Length, and in time: aiohttp itself would wait for the rest.
        partial = web.StreamResponse(status=answer.status, headers=_without_length(answer))
        partial.content_length = len(answer.body)
        with suppress(ConnectionError):  # the client may have lost patience
            await partial.prepare(request)
            await partial.write(half)
        await asyncio.sleep(self._proxy.stall_s if fault is Fault.STALLED_BODY else 0.02)
        return _reset(request)


def _without_length(answer: web.Response) -> list[tuple[str, str]]:
    return [(name, value) for name, value in answer.headers.items() if name.lower() != "content-length"]


def _error(fault: Fault) -> web.Response:
    status, code = fault.value.split()
    xml = (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>injected: {code}</Message></Error>'
    )
    return web.Response(status=int(status), text=xml, content_type="application/xml")


def _reset(request: web.BaseRequest) -> web.Response:
    """Close with RST instead of FIN; the answer goes nowhere."""
    if request.transport is not None:
        linger = struct.pack("ii", 1, 0)
        request.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        request.transport.abort()
    return web.Response()


def _client_pid(request: web.BaseRequest) -> int:
    client, here = request.transport.get_extra_info("peername"), request.transport.get_extra_info("sockname")
    for connection in psutil.net_connections("tcp4"):
        if connection.laddr == client and connection.raddr == here and connection.pid is not None:
            return connection.pid
    raise RuntimeError(f"no process has the connection from {client}")
