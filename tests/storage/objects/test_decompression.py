"""Files that unpack to far more than they are: refused after a second, in little memory."""

import bz2
import gzip
import io
import lzma
import random
import tarfile
import time
import tracemalloc

import pytest

from sam_pipeline.config import PromptConfig
from sam_pipeline.errors import InputError
from sam_pipeline.storage.inputs.containers.tars import read_tar_members, tar_images
from sam_pipeline.storage.inputs.lists.manifest import manifest_images
from sam_pipeline.storage.inputs.source_object import SourceObject, SourceOptions
from sam_pipeline.storage.objects import decompression
from sam_pipeline.storage.objects.decompression import Decompressed, gunzipped
from sam_pipeline.storage.objects.object_reading import read_json
from sam_pipeline.storage.prompts.prompt_files import read_prompts
from sam_pipeline.storage.prompts.prompt_rows import PromptOptions

FREE_BYTES = 8 * 2**20
COMPRESSORS = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}
REASON = "it unpacks to more than 256 times its size"


@pytest.fixture(autouse=True)
def little_is_free(monkeypatch):
    monkeypatch.setattr(decompression, "_FREE_BYTES", FREE_BYTES)


def bomb(compress, num_bytes=64 * 2**20):
    """A tar archive of one picture of zeros."""
    member = tarfile.TarInfo("0001.jpg")
    member.size = num_bytes
    return compress(member.tobuf() + bytes(num_bytes) + bytes(1024))


@pytest.mark.parametrize("compress", COMPRESSORS.values(), ids=COMPRESSORS)
def test_an_archive_that_unpacks_to_far_more_is_an_error_in_planning_and_in_reading(tmp_path, compress):
    data = bomb(compress)
    assert len(data) < 100_000
    (tmp_path / "shard.tar.x").write_bytes(data)
    uri = f"file://{tmp_path}/shard.tar.x"
    tracemalloc.start()
    (table,) = tar_images([SourceObject(uri, len(data), None)], SourceOptions({}))
    ((number, answer),) = read_tar_members(uri, [0], {})
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    (row,) = table.to_pylist()
    assert (row["uri"], REASON in row["error"]) == (f"{uri}#", True)
    assert (number, REASON in str(answer)) == (0, True)
    assert peak_bytes < 7 * FREE_BYTES


LISTS = {
    "a.csv.gz": b"uri\n" + b"\n" * (64 * 2**20),
    "b.csv.gz": b'uri\n"' + b"x" * (64 * 2**20),
    "a.jsonl.gz": b" " * (64 * 2**20),
    "b.jsonl.gz": b'{"uri": "' + b"x" * (64 * 2**20),
}


@pytest.mark.parametrize("name", LISTS)
def test_a_list_that_unpacks_to_far_more_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(gzip.compress(LISTS[name]))
    with pytest.raises(InputError, match=r"cannot read .*(unpacks to more|a line of more|straddling)"):
        list(manifest_images(str(tmp_path / name), SourceOptions({})))


def test_prompts_that_unpack_to_far_more_are_refused(tmp_path):
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(LISTS["a.jsonl.gz"]))
    with pytest.raises(InputError, match=REASON):
        list(read_prompts(str(tmp_path / "a.jsonl.gz"), PromptOptions({}, PromptConfig(), "")))


def test_json_that_unpacks_to_far_more_is_not_said_to_be_no_json(tmp_path):
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(b" " * (64 * 2**20)))
    with pytest.raises(InputError, match=rf"cannot read .*a\.json\.gz: {REASON}"):
        read_json(str(tmp_path / "a.json.gz"), {})


def test_what_stays_in_proportion_is_read_as_it_is():
    content = random.Random(0).randbytes(3 * 2**20) + bytes(6 * 2**20)
    compressed = io.BytesIO(gzip.compress(content))
    file = gunzipped(compressed)
    assert file.read(5) == content[:5]
    assert file.seek(2**20) == file.tell() == 2**20
    assert file.read(2 * 2**20) == content[2**20 : 3 * 2**20]
    assert file.seek(-1, io.SEEK_CUR) == 3 * 2**20 - 1
    assert file.seek(0) == 0
    assert file.read() == content
    assert file.read(1) == b""
    assert file.seek(2**40) == len(content)


def test_a_bomb_costs_no_time():
    data = bz2.compress(bytes(256 * 2**20))
    compressed = io.BytesIO(data)
    start = time.process_time()
    with pytest.raises(ValueError, match=REASON):
        Decompressed(bz2.BZ2File(compressed), compressed).seek(256 * 2**20)
    assert time.process_time() - start < 2
