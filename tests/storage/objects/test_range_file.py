import asyncio
import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.asyn import AsyncFileSystem

from sam_pipeline.storage.inputs.containers import parquet_reading
from sam_pipeline.storage.inputs.containers.parquet_reading import read_parquet_rows
from sam_pipeline.storage.objects import range_file, ranges
from sam_pipeline.storage.objects.filesystem import open_filesystem
from sam_pipeline.storage.objects.range_file import ObjectFile


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
