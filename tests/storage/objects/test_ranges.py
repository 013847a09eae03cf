"""Limits on time, against servers that send as slowly as they like."""

import asyncio
import socket
import threading
import time
from contextlib import contextmanager

import pytest
from fsspec.asyn import AsyncFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from sam_pipeline.safety import guarded_http
from sam_pipeline.storage.inputs import fetching
from sam_pipeline.storage.inputs.fetching import fetch
from sam_pipeline.storage.inputs.source_object import SourceObject
from sam_pipeline.storage.objects import ranges
from sam_pipeline.storage.objects.ranges import TooSlowError, read_range, read_ranges


class Slow(AsyncFileSystem):
    """Answers after as many seconds as the path says."""

    cachable = False

    async def _cat_file(self, path, start=None, end=None, **_):
        if path == "denied":
            raise PermissionError(path)
        await asyncio.sleep(float(path))
        return path.encode()[start:end]


def test_each_of_several_ranges_has_the_time():
    start = time.monotonic()
    first, slow, third, denied = read_ranges(Slow(), ["0.01", "30", "0.02", "denied"], [(0, 3)] * 4, limit_s=0.5)
    assert (first, third) == (b"0.0", b"0.0")
    assert str(slow) == "it did not come within 0.5 s"
    assert isinstance(slow, TooSlowError)
    assert isinstance(denied, PermissionError)
    assert time.monotonic() - start < 10


def test_a_range_that_the_driver_reads_too_slowly_is_a_transient_error(monkeypatch):
    monkeypatch.setattr(ranges, "RANGE_LIMIT_S", 0.1)
    with pytest.raises(TimeoutError, match="did not come within"):
        read_range(Slow(), "30", 0, 4)
    with pytest.raises(PermissionError):
        read_range(Slow(), "denied", 0, 4)
    assert read_range(Slow(), "0.001", 1, 3) == b".0"


def test_filesystems_without_an_event_loop_are_read_as_they_are():
    store = MemoryFileSystem()
    store.pipe_file("/ranges/a", b"0123")
    assert read_range(store, "/ranges/a", 1, 3) == b"12"
    assert read_ranges(store, ["/ranges/a", "/ranges/a"], [(0, 1), (2, 9)], 1)[0] == b"0"


@contextmanager
def dripping_server(interval_s):
    """A web server that sends its answers byte by byte, for ever; gives its port."""
    listening = socket.create_server(("127.0.0.1", 0))
    is_over = threading.Event()

    def drip(connection):
        with connection:
            connection.recv(4096)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
            while not is_over.wait(interval_s):
                try:
                    connection.sendall(b"x")
                except OSError:
                    return

    def accept():
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=drip, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listening.getsockname()[1]
    finally:
        is_over.set()
        listening.close()


def test_an_image_that_drips_from_a_web_server_ends_as_an_error(monkeypatch):
    monkeypatch.setattr(guarded_http, "is_internal_address", lambda _: False)
    with dripping_server(0.05) as port:
        start = time.monotonic()
        (answer,) = fetch([SourceObject(f"http://127.0.0.1:{port}/a.jpg", None, None)], {}, None, limit_s=1)
        assert str(answer) == "it did not come within 1 s"
        assert 2 <= time.monotonic() - start < 20  # twice, as any error that is blamed on an image
    assert fetching.FETCH_LIMIT_S * 2 < 600
