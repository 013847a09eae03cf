"""The directory of a zip archive against the standard library's reading of it."""

import struct
import tracemalloc
import zipfile
import zlib
from dataclasses import dataclass

import fsspec
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from sam_pipeline.storage.inputs.containers.zip_directory import ZipDirectory
from sam_pipeline.storage.objects.range_file import ReadAheadFile

URI = "memory:///directories/a.zip"
END_SIGNATURE = b"PK\5\6"
UTF8 = 1 << 11
IN_EXTRA = 0xFFFFFFFF


def file_of(data):
    fsspec.filesystem("memory").pipe_file("/directories/a.zip", data)
    return ReadAheadFile(URI, len(data), {})


def read(data):
    """Where the directory begins and what it holds; None: refused."""
    try:
        directory = ZipDirectory(file_of(data))
        return directory.start, [tuple(entry) for entry in directory.entries()]
    except zipfile.BadZipFile:
        return None


def read_by_zipfile(data):
    try:
        archive = zipfile.ZipFile(file_of(data))
    except Exception:  # noqa: BLE001  half a dozen types
        return None
    return archive.start_dir, [
        (
            *(info.filename, info.flag_bits, info.compress_type, info.compress_size, info.file_size),
            *(info.external_attr, info.header_offset),
        )
        for info in archive.infolist()
    ]


@dataclass
class Record:
    """A member, as the directory has it."""

    name: bytes = b"a.jpg"
    flags: int = 0
    method: int = 8
    packed_bytes: int = 3
    size_bytes: int = 4
    extra: bytes = b""
    comment: bytes = b""
    attributes: int = 0
    offset: int = 0
    version: int = 20

    def pack(self):
        return (
            struct.pack(
                "<4s4B4H3L5H2L",
                *(b"PK\1\2", 20, 3, self.version, 0, self.flags, self.method, 0, 0x21, 7),
                *(self.packed_bytes, self.size_bytes, len(self.name), len(self.extra), len(self.comment)),
                *(0, 0, self.attributes, self.offset),
            )
            + self.name
            + self.extra
            + self.comment
        )


def end_record(num_members, size_bytes, offset, comment=b""):
    return struct.pack("<4s4H2LH", END_SIGNATURE, 0, 0, num_members, num_members, size_bytes, offset, len(comment))


def end_records64(num_members, size_bytes, offset, *, disk=0):
    end64 = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, num_members, num_members, size_bytes, offset)
    locator = struct.pack("<4sLQL", b"PK\6\7", disk, (offset + size_bytes) % 2**64, 1)
    return end64 + locator + end_record(0xFFFF, IN_EXTRA, IN_EXTRA)


def archive_of(records, *, prefix=b"", comment=b"", is_zip64=False, rest=b""):
    """An archive without data; behind a prefix of which its offsets know nothing."""
    directory = b"".join(record.pack() for record in records)
    if is_zip64:
        end = end_records64(len(records), len(directory), 0)[:-2] + struct.pack("<H", len(comment))
    else:
        end = end_record(len(records), len(directory), 0, comment)
    return prefix + directory + end + comment + rest


def extra_field(kind, data):
    return struct.pack("<2H", kind, len(data)) + data


def name_field(name, stored=b"a.jpg", version=1):
    return extra_field(0x7075, struct.pack("<BL", version, zlib.crc32(stored)) + name)


@pytest.mark.parametrize(
    ("extra", "name"),
    [
        (name_field("日本.jpg".encode()), "日本.jpg"),
        (extra_field(0x5455, b"12345") + name_field("é.jpg".encode() + b"\0rest"), "é.jpg"),
        (name_field("é.jpg".encode(), stored=b"renamed.jpg"), "a.jpg"),
        (name_field("é.jpg".encode(), version=2), "a.jpg"),
        (name_field(b"\xe9.jpg"), "a.jpg"),
        (name_field(b""), "a.jpg"),
        (extra_field(0x7075, b"\1\2"), "a.jpg"),
    ],
)
def test_a_name_in_utf8_beside_the_name_counts_if_it_is_of_that_name(extra, name):
    _, ((found, *_),) = read(archive_of([Record(extra=extra)]))
    assert found == name


NUMBERS = st.one_of(st.integers(0, 2**32 - 1), st.sampled_from([0, 1, 2**31, IN_EXTRA]))
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
# Later versions of zipfile take a name from a field of kind 0x7075.
EXTRA_FIELDS = st.builds(
    extra_field,
    st.one_of(st.sampled_from([1, 0x5455, 0x000A]), st.integers(0, 0xFFFF).filter(lambda kind: kind != 0x7075)),
    st.one_of(
        st.binary(max_size=30),
        st.lists(st.integers(0, 2**64 - 1), max_size=4).map(lambda n: struct.pack(f"<{len(n)}Q", *n)),
    ),
)
RECORDS = st.builds(
    Record,
    name=st.one_of(st.binary(max_size=12), NAMES.map(str.encode)),
    flags=st.one_of(st.sampled_from([0, UTF8, 1, 8]), st.integers(0, 0xFFFF)),
    method=st.integers(0, 0xFFFF),
    packed_bytes=NUMBERS,
    size_bytes=NUMBERS,
    extra=st.lists(EXTRA_FIELDS, max_size=3).map(b"".join),
    comment=st.binary(max_size=20),
    attributes=NUMBERS,
    offset=NUMBERS,
    version=st.sampled_from([0, 20, 45, 63, 63, 63, 64]),
)
SOUND_RECORDS = st.builds(
    Record,
    name=NAMES.map(str.encode),
    flags=st.just(UTF8),
    extra=st.just(extra_field(0x5455, b"12345")),
    comment=st.binary(max_size=20),
    offset=NUMBERS.filter(lambda number: number < IN_EXTRA),
)
COMMENTS = st.one_of(
    st.binary(max_size=100),
    st.sampled_from([b"c" * 0xFFFF, END_SIGNATURE, END_SIGNATURE + bytes(18), b"c" + archive_of([]), bytes(22)]),
)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(RECORDS, max_size=6),
    st.sampled_from([b"", b"#!/bin/sh\n", b"PK\3\4" + bytes(200_000)]),
    COMMENTS,
    st.booleans(),
    st.sampled_from([b"", b"", b"\0", b"rest"]),
)
@example([Record(b"\xe9.jpg"), Record("é.jpg".encode(), UTF8), Record(b"\xe9", UTF8)], b"", b"", False, b"")
@example([Record(b"a\0b.jpg"), Record(b""), Record(b"\0")], b"", b"", False, b"")
@example([Record(size_bytes=IN_EXTRA, offset=IN_EXTRA, extra=extra_field(1, bytes(15)))], b"", b"", True, b"")
@example([Record(offset=IN_EXTRA, extra=extra_field(1, b"\xff" * 8))], b"", b"", True, b"")
def test_any_directory_is_read_as_zipfile_reads_it(records, prefix, comment, is_zip64, rest):
    data = archive_of(records, prefix=prefix, comment=comment, is_zip64=is_zip64, rest=rest)
    assert read(data) == read_by_zipfile(data)


@settings(max_examples=200, deadline=None)
@given(st.lists(SOUND_RECORDS, min_size=1, max_size=6), st.booleans(), st.data())
def test_a_damaged_directory_is_read_or_refused_as_zipfile_does(records, is_zip64, data):
    whole = bytearray(archive_of(records, prefix=b"before", is_zip64=is_zip64))
    size_bytes = sum(len(record.pack()) for record in records)
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(6, 6 + size_bytes - 1))
        whole[position] ^= data.draw(st.integers(1, 255))
    assume(b"\x75\x70" not in whole)
    assert read(bytes(whole)) == read_by_zipfile(bytes(whole))


@settings(max_examples=200, deadline=None)
@given(st.lists(SOUND_RECORDS, max_size=4), COMMENTS, st.booleans(), st.data())
def test_damage_at_the_end_never_raises_anything_else(records, comment, is_zip64, data):
    whole = bytearray(archive_of(records, comment=comment, is_zip64=is_zip64))
    for _ in range(data.draw(st.integers(1, 4))):
        from_end = data.draw(st.integers(1, min(len(whole), 98 + len(comment))))
        whole[-from_end] = data.draw(st.integers(0, 255))
    read(bytes(whole))  # versions of zipfile differ in what they refuse here


@settings(max_examples=300, deadline=None)
@given(st.lists(SOUND_RECORDS, max_size=4), COMMENTS, st.booleans(), st.data())
def test_a_cut_archive_is_read_or_refused_as_zipfile_does(records, comment, is_zip64, data):
    whole = archive_of(records, prefix=b"before", comment=comment, is_zip64=is_zip64)
    cut = whole[: data.draw(st.integers(0, len(whole)))]
    assert read(cut) == read_by_zipfile(cut)
    assert read(cut[len(whole) // 2 :]) == read_by_zipfile(cut[len(whole) // 2 :])


MEMBERS = [Record(f"{number}.jpg".encode()) for number in range(3)]
DIRECTORY = b"".join(record.pack() for record in MEMBERS)
HOSTILE_ENDS = {
    "more than the file": end_record(3, 10**6, 0),
    "one byte more than the file": end_record(3, len(DIRECTORY) + 1, 0),
    "all ones without zip64": end_record(0xFFFF, IN_EXTRA, IN_EXTRA),
    "less than a record": end_record(3, 45, 0),
    "half of a record": end_record(3, len(DIRECTORY) - 20, 0),
    "2^32 members": end_records64(2**32, 2**32 * 46, 0),
    "2^63 bytes": end_records64(2**32, 2**63, 0),
    "2^64 bytes": end_records64(2**64 - 1, 2**64 - 1, 2**64 - 1),
    "another disk": end_records64(3, len(DIRECTORY), 0, disk=1),
    "a locator at the beginning": struct.pack("<4sLQL", b"PK\6\7", 0, 0, 1) + end_record(0, 0, 0),
}


@pytest.mark.parametrize("end", HOSTILE_ENDS.values(), ids=HOSTILE_ENDS)
def test_a_hostile_end_is_refused_from_the_end_alone(end):
    data = DIRECTORY + end if end is not HOSTILE_ENDS["a locator at the beginning"] else end
    assert read(data) is None
    assert read_by_zipfile(data) is None


def test_what_the_end_says_of_the_number_of_members_counts_for_nothing():
    """Old writers count to 65,535 and begin anew."""
    data = DIRECTORY + end_record(0xFFFF, len(DIRECTORY), 0)
    assert read(data) == read_by_zipfile(data)
    assert len(read(data)[1]) == 3


@pytest.mark.parametrize("comment_bytes", [0, 1])
def test_an_offset_that_looks_like_a_signature_is_read_as_zipfile_reads_it(comment_bytes):
    end = bytearray(end_record(3, len(DIRECTORY), int.from_bytes(END_SIGNATURE, "little")))
    end[-2] = comment_bytes
    data = DIRECTORY + bytes(end)
    assert read(data) == read_by_zipfile(data)
    assert (read(data) is None) == bool(comment_bytes)


def test_a_directory_above_the_limit_is_not_read(tmp_path):
    path = tmp_path / "a.zip"
    with path.open("wb") as file:
        file.truncate(2**28 + 1)
        file.seek(0, 2)
        file.write(end_record(0xFFFF, 2**28 + 1, 0))
    file = ReadAheadFile(f"file://{path}", path.stat().st_size, {})
    tracemalloc.start()
    try:
        with pytest.raises(zipfile.BadZipFile, match=r"^its directory has 268435457 bytes, the limit is 268435456$"):
            ZipDirectory(file)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_a_directory_is_held_in_pieces():
    record = Record(comment=b"c" * 60_000).pack()
    file = file_of(record * 700 + end_record(700, 700 * len(record), 0))  # 42 MB
    tracemalloc.start()
    try:
        assert sum(1 for _ in ZipDirectory(file).entries()) == 700
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()
