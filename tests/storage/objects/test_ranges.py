"""Limits on time, against servers that send as slowly as they like."""

import asyncio
import io
import socket
import threading
import time
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.asyn import AsyncFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from sam_pipeline.safety import guarded_http
from sam_pipeline.storage.inputs import fetching
from sam_pipeline.storage.inputs.containers import parquet_reading
from sam_pipeline.storage.inputs.containers.parquet_reading import read_parquet_rows
from sam_pipeline.storage.inputs.fetching import fetch
from sam_pipeline.storage.inputs.source_object import SourceObject
from sam_pipeline.storage.objects import range_file, ranges
from sam_pipeline.storage.objects.filesystem import open_filesystem
from sam_pipeline.storage.objects.range_file import ObjectFile
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


class Store(AsyncFileSystem):
    """One object, each range of which takes as long as it is told."""

    cachable = False

    def __init__(self, data, delay_s=0.0):
        super().__init__()
        self.data, self.delay_s, self.asked = data, delay_s, []

    async def _info(self, path, **_):
        return {"name": path, "size": len(self.data), "type": "file"}

    async def _cat_file(self, path, start=None, end=None, **_):
        self.asked.append((start, end))
        await asyncio.sleep(self.delay_s)
        return self.data[start:end]

    def _open(self, path, mode="rb", **_):
        return io.BytesIO(self.cat_file(path))


def test_an_object_is_read_as_a_file_in_parts_that_each_have_the_time(monkeypatch):
    monkeypatch.setattr(range_file, "PART_BYTES", 4)
    store = Store(b"0123456789")
    with ObjectFile(store, "a", store.info("a")) as file:
        assert file.read(6) == b"012345"
        assert file.seek(-3, io.SEEK_END) == 7
        assert (file.read(9), file.read(9), file.tell()) == (b"789", b"", 10)
    assert store.asked == [(0, 4), (4, 6), (7, 10)]
    monkeypatch.setattr(ranges, "RANGE_LIMIT_S", 0.1)
    slow = Store(b"0123", delay_s=30)
    with pytest.raises(TimeoutError, match="did not come within"):
        ObjectFile(slow, "a", slow.info("a")).read(4)


def test_fewer_bytes_of_an_object_than_there_are_is_a_transient_error():
    store = Store(b"0123")
    with pytest.raises(ConnectionError, match="4 of 9 bytes came"):
        ObjectFile(store, "a", {"size": 9}).read()


def test_rows_of_parquet_that_come_too_slowly_end_as_a_transient_error(monkeypatch):
    buffer = io.BytesIO()
    pq.write_table(pa.table({"image": [b"a", b"b"]}), buffer)
    store = Store(buffer.getvalue())
    monkeypatch.setattr(parquet_reading, "open_filesystem", lambda uri, options: (store, "a"))
    monkeypatch.setattr(ranges, "RANGE_LIMIT_S", 1)
    assert list(read_parquet_rows("memory://a", "image", [0, 1], {})) == [(0, b"a"), (1, b"b")]
    store.delay_s = 30
    with pytest.raises(TimeoutError, match="did not come within 1 s"):
        list(read_parquet_rows("memory://a", "image", [0, 1], {}))


def test_of_an_object_that_is_replaced_meanwhile_no_part_is_taken_for_its_own(s3, monkeypatch):
    for name, value in s3.env.items():
        monkeypatch.setenv(name, value)
    bucket = s3.create_bucket()
    s3.put(bucket, "a", b"first")
    filesystem, path = open_filesystem(f"s3://{bucket}/a", {})
    file = ObjectFile(filesystem, path, filesystem.info(path))
    assert file.read(3) == b"fir"
    s3.put(bucket, "a", b"other")
    with pytest.raises(OSError, match="pre-conditions"):
        file.read(2)


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
