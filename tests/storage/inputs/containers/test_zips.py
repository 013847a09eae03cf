import errno
import io
import logging
import random
import stat
import struct
import tracemalloc
import zipfile
import zlib
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sam_pipeline.errors import InputError, StorageUnavailableError
from sam_pipeline.storage.inputs.containers import zip_directory, zips
from sam_pipeline.storage.inputs.containers.zips import unzip_member, zip_images
from sam_pipeline.storage.inputs.source_object import SourceObject, SourceOptions
from tests.storage.inputs.archive_store import ArchiveStore, names

STORED, DEFLATED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED


class Pipe(io.BytesIO):
    """A file that is written without seeking back, so that CRC-32 and sizes follow the data."""

    def seekable(self):
        return False

    def seek(self, *arguments):
        raise OSError(errno.ESPIPE, "Illegal seek")

    def tell(self):
        raise OSError(errno.ESPIPE, "Illegal seek")


def packed(members, method=DEFLATED, *, buffer=None, force_zip64=False, comment=b""):
    """A zip archive of names, or ZipInfos, and their contents."""
    buffer = io.BytesIO() if buffer is None else buffer
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.comment = comment
        for member, content in members:
            info = zipfile.ZipInfo(member) if isinstance(member, str) else member
            info.compress_type = method
            with archive.open(info, "w", force_zip64=force_zip64) as file:
                file.write(content)
    return buffer.getvalue()


def noise(num_bytes, seed=0):
    return random.Random(seed).randbytes(num_bytes)


PICTURES = [(f"{i:03d}.jpg", noise(300 + i, i) + b"x" * 500) for i in range(20)]


class Store(ArchiveStore):
    suffix = ".zip"
    list_images = staticmethod(zip_images)

    def stored(self, image):
        """What a worker fetches of an image."""
        where = image.location
        assert where.kind == "zip"
        path = self.filesystem._strip_protocol(where.container)
        data = self.filesystem.cat_file(path, start=where.offset, end=where.offset + where.length)
        assert len(data) == where.length
        return data

    def content(self, image):
        return unzip_member(self.stored(image), image.size_bytes)


@pytest.mark.parametrize("method", [STORED, DEFLATED])
@pytest.mark.parametrize("force_zip64", [False, True])
@pytest.mark.parametrize("buffer", [io.BytesIO, Pipe])
def test_every_image_is_found_with_its_bytes(store, method, force_zip64, buffer):
    members = [("empty.JPG", b""), *PICTURES, ("é-日本.png", b"unicode")]
    container = store.put(packed(members, method, force_zip64=force_zip64, buffer=buffer()))
    images = store.index(container)
    assert [image.uri for image in images] == [f"{container.uri}#{name}" for name, _ in members]
    assert [store.content(image) for image in images] == [content for _, content in members]
    for image, (_, content) in zip(images, members, strict=True):
        assert (image.size_bytes, image.etag, image.error, image.extra) == (len(content), "etag", None, None)
        assert image.location.container == container.uri


def test_what_is_fetched_of_a_member_ends_where_the_next_begins(memory):
    data = packed(PICTURES)
    images = memory.index(data)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        starts = [info.header_offset for info in archive.infolist()] + [archive.start_dir]
    assert [image.location.offset for image in images] == starts[:-1]
    assert [image.location.offset + image.location.length for image in images] == starts[1:]


def test_what_lies_between_members_is_not_fetched_beyond_the_longest_header(memory):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.jpg", b"1")
        archive.writestr("gap.bin", bytes(500_000))  # a member that is deleted below
        archive.writestr("b.jpg", b"2")
        del archive.NameToInfo["gap.bin"]
        archive.filelist.pop(1)
    images = memory.index(buffer.getvalue())
    assert [memory.content(image) for image in images] == [b"1", b"2"]
    assert images[0].location.length < 140_000


def test_an_archive_behind_a_program_is_found(memory):
    images = memory.index(b"#!/bin/sh\n" * 50 + packed(PICTURES))
    assert [memory.content(image) for image in images] == [content for _, content in PICTURES]


@pytest.mark.parametrize("num_bytes", [1, 1000, 65_535])
def test_a_comment_at_the_end_does_no_harm(memory, num_bytes):
    images = memory.index(packed(PICTURES, comment=b"c" * num_bytes))
    assert [memory.content(image) for image in images] == [content for _, content in PICTURES]


def test_more_members_than_the_first_zip_could_count(memory):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for i in range(65_540):
            archive.writestr(zipfile.ZipInfo(f"{i}.jpg"), b"%d" % i)
    images = memory.index(buffer.getvalue())
    assert len(images) == 65_540
    assert [memory.content(images[i]) for i in (0, 65_539)] == [b"0", b"65539"]


def test_offsets_beyond_four_gigabytes(tmp_path, monkeypatch):
    path = tmp_path / "large.zip"
    with path.open("wb") as file:
        file.seek(5 << 30)  # a hole in the file
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("a.jpg", b"far behind")
    store = Store("local", tmp_path, monkeypatch)
    (image,) = store.index(SourceObject(f"file://{path}", path.stat().st_size, None))
    assert image.location.offset == 5 << 30
    assert store.content(image) == b"far behind"


def test_a_size_in_the_zip64_extra_is_taken_from_there(memory):
    data = bytearray(packed([("a.jpg", b"content")], STORED))
    start = data.index(b"PK\x01\x02")
    extra = struct.pack("<HHQQ", 1, 16, 7, 7)
    data[start + 20 : start + 28] = b"\xff" * 8
    data[start + 30 : start + 32] = struct.pack("<H", len(extra))
    data[start + 51 : start + 51] = extra
    end = data.index(b"PK\x05\x06")
    data[end + 12 : end + 16] = struct.pack("<L", 51 + len(extra))
    (image,) = memory.index(bytes(data))
    assert image.size_bytes == 7
    assert memory.content(image) == b"content"


def link(name):
    info = zipfile.ZipInfo(name)
    info.create_system = 3
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


def test_other_files_hidden_ones_and_links_are_counted_and_passed_over(memory, caplog):
    caplog.set_level(logging.INFO)
    skipped = []
    members = [
        ("a.jpg", b"x"),
        ("a.json", b"{}"),
        (".b.jpg", b"x"),
        ("__MACOSX/._a.jpg", b"x"),
        ("__MACOSX\\sub\\b.jpg", b"x"),
        (link("l.jpg"), b"a"),
        ("d.jpg/", b""),
    ]
    images = memory.index(packed(members), packed(PICTURES[:1]), packed([("t.txt", b"")]), on_skipped=skipped.append)
    assert names(images) == ["a.jpg", "000.jpg"]
    assert skipped == [2, 0, 1]
    folder, links = caplog.messages
    assert folder == f"passed over 1 hidden or system folders, such as {images[0].uri[:-5]}__MACOSX"
    assert links.startswith(f"did not follow 1 links in archives, such as {images[0].uri[:-5]}l.jpg: ")


@pytest.mark.parametrize(
    "name", ["../../etc/x.jpg", "/abs.jpg", "a#b.jpg", "\x1b[31m\n.jpg", "日本.jpg", "n" * 9999 + ".jpg"]
)
def test_odd_names_are_kept_as_they_are(store, name):
    images = store.index(packed([("0.jpg", b"before"), (name, b"odd")]))
    assert names(images) == ["0.jpg", name]
    assert store.content(images[1]) == b"odd"


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_members_of_one_name_are_numbered(memory):
    data = packed([("a.jpg", b"1"), ("b.jpg", b"2"), ("a.jpg", b"3"), ("a.jpg", b"4")])
    images = memory.index(data, data)
    assert names(images) == ["a.jpg", "b.jpg", "a.jpg~2", "a.jpg~3"] * 2
    assert [memory.content(image) for image in images[:4]] == [b"1", b"2", b"3", b"4"]


@pytest.mark.filterwarnings("ignore:Duplicate name")
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(["a.jpg", "b.jpg", "a/a.jpg", "a.txt", "a/", ".a/a.jpg", "é.jpg"])))
def test_names_are_numbered_whatever_their_order(memory, members):
    images = memory.index(packed([(name, b"") for name in members]))
    pictures = [name for name in members if name.endswith(".jpg") and not name.startswith(".")]
    times = [pictures[: index + 1].count(name) for index, name in enumerate(pictures)]
    assert names(images) == [f"{name}~{n}" if n > 1 else name for name, n in zip(pictures, times, strict=True)]


def with_flag(data, flag):
    """The archive with a flag set in the headers of its one member."""
    data = bytearray(data)
    data[6] |= flag
    data[data.index(b"PK\x01\x02") + 8] |= flag
    return bytes(data)


def test_encrypted_members_are_refused_by_themselves(memory):
    data = with_flag(packed([("secret.jpg", b"x" * 50)]), 1)
    secret, other = memory.index(data, packed([("a.jpg", b"1")]))
    assert (secret.error, secret.location) == ("encrypted member of a zip archive: not supported", None)
    assert secret.size_bytes == 50
    assert other.error is None
    with pytest.raises(ValueError, match="encrypted"):
        unzip_member(data, 50)


@pytest.mark.parametrize(("method", "name"), [(zipfile.ZIP_BZIP2, "bzip2"), (zipfile.ZIP_LZMA, "lzma")])
def test_other_compressions_are_refused_by_their_names(memory, method, name):
    data = packed([("a.jpg", b"x" * 500)], method)
    (image,) = memory.index(data)
    assert image.error == f"member of a zip archive compressed with {name}: not supported, only deflate is"
    assert image.location is None
    with pytest.raises(ValueError, match=f"compressed with method {method}"):
        unzip_member(data, 500)


def test_a_compression_without_a_name_is_refused_by_its_number(memory):
    data = bytearray(packed([("a.jpg", b"x")]))
    data[data.index(b"PK\x01\x02") + 10] = 77
    (image,) = memory.index(bytes(data))
    assert "compressed with method 77" in image.error


def test_members_that_lie_over_one_another_are_refused(memory):
    inner = packed([("inner.jpg", noise(300))], STORED)
    data = bytearray(packed([("outer.jpg", inner), ("last.jpg", b"3")], STORED))
    # The directory's second entry now points into the data of the first.
    second = data.rindex(b"PK\x01\x02")
    struct.pack_into("<L", data, second + 42, data.index(b"inner.jpg") - 30)
    outer, last = memory.index(bytes(data))
    assert outer.error.startswith(f"damaged zip archive: {len(inner) + 30} bytes of a member where there are ")
    assert outer.location is None
    assert last.error is None


def test_members_that_claim_to_begin_behind_the_directory_are_refused(memory):
    data = bytearray(packed([("a.jpg", b"1"), ("b.jpg", b"2"), ("c.jpg", b"3")]))
    first = data.index(b"PK\x01\x02")
    struct.pack_into("<L", data, first + 42, 10**6)
    struct.pack_into("<L", data, data.index(b"PK\x01\x02", first + 1) + 42, 2 * 10**6)
    *refused, last = memory.index(bytes(data))
    assert [image.error[-17:] for image in refused] == ["where there are 0"] * 2
    assert memory.content(last) == b"3"


def test_a_member_that_grew_much_when_compressed_is_refused(memory):
    data = bytearray(packed([("a.jpg", noise(5000))], STORED))
    struct.pack_into("<L", data, data.index(b"PK\x01\x02") + 24, 10)
    (image,) = memory.index(bytes(data))
    assert image.error == "damaged zip archive: 5000 bytes for a member of 10"


@pytest.mark.parametrize("data", [b"", b"PK", b"PK\x03\x04" + bytes(5000), noise(10_000), noise(10**6)])
def test_what_is_no_archive_is_one_row_that_says_so_and_the_next_is_read(store, data):
    bad, good = store.index(data, packed(PICTURES[:1]))
    assert bad.uri.endswith("/00000.zip#")
    assert bad.error == "not a zip archive, or a damaged one (File is not a zip file)"
    assert (bad.size_bytes, bad.etag, bad.location) == (None, "etag", None)
    assert good.error is None


CUT = packed(PICTURES)


@pytest.mark.parametrize("num_bytes", range(0, len(CUT), 331))
def test_an_archive_that_is_cut_at_the_end_gives_one_row_that_says_so(memory, num_bytes):
    (image,) = memory.index(CUT[:num_bytes])
    assert image.error.startswith("not a zip archive, or a damaged one (")


@pytest.mark.parametrize("num_bytes", range(1, len(CUT), 997))
def test_an_archive_that_is_cut_at_the_beginning_never_gives_wrong_bytes(memory, num_bytes):
    images = memory.index(CUT[num_bytes:])
    wanted = dict(PICTURES)
    for image in images:
        if image.error is None:
            assert memory.content(image) == wanted[names([image])[0]]
    assert [image for image in images if image.error is not None]


def test_a_member_without_a_name_is_no_image(memory):
    skipped = []
    data = packed([("a.jpg", b"x"), ("b.jpg", b"y")]).replace(b"a.jpg", bytes(5))
    assert names(memory.index(data, on_skipped=skipped.append)) == ["b.jpg"]
    assert skipped == [1]


def test_an_archive_without_members_is_none_without_images(store):
    assert store.index(packed([])) == []


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damage_anywhere_is_a_row_or_a_value_error_or_harmless(memory, data):
    whole = bytearray(packed(PICTURES[:3], data.draw(st.sampled_from([STORED, DEFLATED]))))
    for _ in range(data.draw(st.integers(1, 5))):
        in_directory = data.draw(st.booleans())
        position = data.draw(st.integers(whole.index(b"PK\x01\x02") if in_directory else 0, len(whole) - 1))
        new = data.draw(st.binary(min_size=1, max_size=8))
        whole[position : position + len(new)] = new
        if b"PK\x01\x02" not in whole:
            break
    for image in memory.index(bytes(whole)):
        if image.error is None:
            with suppress(ValueError):
                assert len(memory.content(image)) == image.size_bytes


@pytest.mark.parametrize(("num_members", "most_requests"), [(100, 1), (4000, 2)])
def test_only_the_directory_is_read(memory, num_members, most_requests):
    content = noise(9000)
    data = packed([(f"folder/{i:06d}.jpg", content) for i in range(num_members)], STORED)
    images = memory.index(data)
    assert len(images) == num_members
    assert len(memory.ranges) == most_requests
    assert memory.num_bytes <= 2**17 + num_members * 100
    assert memory.num_bytes < 0.35 * len(data)


def test_a_directory_that_claims_gigabytes_is_not_read(memory, monkeypatch):
    monkeypatch.setattr(zip_directory, "_MAX_DIRECTORY_BYTES", 2**17)
    (image,) = memory.index(packed([(f"folder/{i:06d}.jpg", b"") for i in range(4000)]))
    assert "(its directory has 252000 bytes, the limit is 131072)" in image.error
    assert memory.num_bytes == 2**17


def wide(num_members, seed=0):
    """A directory of several pieces, each of some records, in an archive without data."""
    return packed([(f"{seed}-{i:04d}-{'n' * 9000}.jpg", b"") for i in range(num_members)], STORED)


def test_a_directory_of_many_pieces_is_read_whole(memory, monkeypatch):
    monkeypatch.setattr(zip_directory, "_PIECE_BYTES", 2**18)
    images = memory.index(wide(200))
    assert [name[:6] for name in names(images)] == [f"0-{i:04d}" for i in range(200)]
    assert [memory.content(image) for image in images] == [b""] * 200


@pytest.mark.parametrize("is_damaged", [True, False])
def test_an_archive_that_changes_while_it_is_read_is_no_damaged_one(memory, monkeypatch, is_damaged):
    monkeypatch.setattr(zip_directory, "_PIECE_BYTES", 2**18)
    data = bytearray(wide(200))
    container = memory.put(bytes(data))
    second = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 1)
    if is_damaged:
        data[second] ^= 1
    else:  # the first record takes the second one for its comment
        first = data.index(b"PK\x01\x02")
        data[first + 32 : first + 34] = (second - first).to_bytes(2, "little")

    def survey_and_change(directory, real=zips._survey):
        found = real(directory)
        memory.put(bytes(data))
        return found

    monkeypatch.setattr(zips, "_survey", survey_and_change)
    with pytest.raises(InputError, match=r"cannot read memory:.*a\.zip: it changed while it was read$"):
        memory.index(container)


def test_a_member_of_more_bytes_than_a_plan_can_say_is_a_row(memory):
    extra = struct.pack("<HHQ", 1, 8, 2**64 - 1)
    data = bytearray(packed([("a.jpg", b"")]))
    start = data.index(b"PK\x01\x02")
    data[start + 24 : start + 28] = b"\xff" * 4
    data[start + 30 : start + 32] = struct.pack("<H", len(extra))
    data[start + 51 : start + 51] = extra
    struct.pack_into("<L", data, data.index(b"PK\x05\x06") + 12, 51 + len(extra))
    (image,) = memory.index(bytes(data))
    assert image.error == f"damaged zip archive: a member of {2**64 - 1} bytes"
    assert image.location is None


def test_members_that_claim_to_begin_before_the_archive_are_refused(memory):
    data = bytearray(packed([("a.jpg", b"1"), ("b.jpg", b"2")]))
    start, end = data.index(b"PK\x01\x02"), data.index(b"PK\x05\x06")
    refused = "damaged zip archive: 33 bytes of a member where there are 0"
    struct.pack_into("<L", data, end + 16, start + 10)
    assert [image.error for image in memory.index(bytes(data))] == [refused, None]
    # Further before it than 64 bits can say.
    end64 = struct.pack("<4s36x2Q", b"PK\x06\x06", end - start, 2**64 - 1)
    data[end:end] = end64 + struct.pack("<4s12xL", b"PK\x06\x07", 1)
    assert [image.error for image in memory.index(bytes(data))] == [refused] * 2


def test_an_outage_or_a_missing_right_ends_planning_instead_of_planning_without_an_archive(memory, clock):
    container = memory.put(CUT)
    memory.fail = ConnectionResetError(errno.ECONNRESET, "reset")
    with pytest.raises(StorageUnavailableError, match="did not answer for 120 s"):
        memory.index(container)
    for memory.fail in (PermissionError("Access Denied"), OSError(errno.EIO, "Input/output error")):
        with pytest.raises(InputError, match=r"cannot read memory:.*a\.zip: "):
            memory.index(container)


# ------------------------------------------------------------------------------------------------ unzip_member


def member(content, method=DEFLATED, **options):
    """An archive from the local header of its only member on."""
    return packed([("a.jpg", content)], method, **options)


@pytest.mark.parametrize("method", [STORED, DEFLATED])
@pytest.mark.parametrize("num_bytes", [0, 1, 500, 10**6])
@pytest.mark.parametrize("buffer", [io.BytesIO, Pipe])
def test_a_member_is_taken_out_whatever_follows_it(method, num_bytes, buffer):
    content = noise(num_bytes)
    data = member(content, method, buffer=buffer())
    assert unzip_member(data, num_bytes) == content
    assert unzip_member(data + noise(999), num_bytes) == content


@pytest.mark.parametrize("method", [STORED, DEFLATED])
@pytest.mark.parametrize("buffer", [io.BytesIO, Pipe])
@pytest.mark.parametrize("wrong", [-1, 1, -500, 500, 10**9])
def test_another_size_than_planned_is_an_error(method, buffer, wrong):
    with pytest.raises(ValueError, match=r"bytes|CRC-32"):
        unzip_member(member(noise(500), method, buffer=buffer()), 500 + wrong)


def test_the_errors_say_what_is_wrong():
    content = noise(500) + b"x" * 500
    data = member(content)
    with pytest.raises(ValueError, match=r"^member of 1000 bytes, planned with 999$"):
        unzip_member(data, 999)
    piped = member(content, buffer=Pipe())
    with pytest.raises(ValueError, match=r"^more than the 999 bytes that the archive says$"):
        unzip_member(piped, 999)
    with pytest.raises(ValueError, match=r"^only 1000 bytes of a member of 1001$"):
        unzip_member(piped, 1001)
    with pytest.raises(ValueError, match=r"^only \d+ bytes of a member of 1000$"):
        unzip_member(data[:300], 1000)
    with pytest.raises(ValueError, match=r"^only 265 bytes of a member of 1000$"):
        unzip_member(member(content, STORED)[:300], 1000)
    with pytest.raises(ValueError, match=r"^no member of a zip archive begins here"):
        unzip_member(data[1:], 1000)
    with pytest.raises(ValueError, match=r"^no member of a zip archive begins here"):
        unzip_member(data[:29], 1000)
    with pytest.raises(ValueError, match=r"^damaged data: "):
        unzip_member(data[:35] + b"\xff" * 100 + data[135:], 1000)


@pytest.mark.parametrize("method", [STORED, DEFLATED])
@pytest.mark.parametrize("buffer", [io.BytesIO, Pipe])
def test_a_wrong_crc_is_an_error(method, buffer):
    content = noise(500)
    data = member(content, method, buffer=buffer())
    position = data.index(content[200:220])
    damaged = data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]
    with pytest.raises(ValueError, match=rf"^CRC-32 is [0-9a-f]{{8}}, the archive says {zlib.crc32(content):08x}$"):
        unzip_member(damaged, 500)


def test_a_descriptor_without_its_signature_counts_too():
    content = noise(500)
    data = member(content, buffer=Pipe())
    bare = data.replace(b"PK\x07\x08", b"")
    assert unzip_member(bare, 500) == content
    with pytest.raises(ValueError, match="CRC-32"):
        unzip_member(bare[: bare.index(b"PK\x01\x02") - 12], 500)  # no descriptor, no CRC-32


def test_a_crc_in_the_header_counts_where_a_descriptor_is_announced_in_vain():
    content = noise(500)
    data = bytearray(member(content))
    data[6] |= 8
    assert unzip_member(bytes(data), 500) == content
    data[14] ^= 1
    with pytest.raises(ValueError, match="CRC-32"):
        unzip_member(bytes(data), 500)


@pytest.mark.parametrize("buffer", [io.BytesIO, Pipe])
def test_a_bomb_is_not_inflated(buffer):
    bomb = bytearray(member(bytes(200_000_000), buffer=buffer()))
    struct.pack_into("<L", bomb, 22, 1000)  # lies about its size
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="more than the 1000 bytes that the archive says"):
            unzip_member(bytes(bomb), 1000)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 3 * len(bomb) < 1_000_000


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damage_of_a_member_is_a_value_error_or_harmless(data):
    content = noise(200) + b"y" * 200
    whole = bytearray(
        member(
            content,
            data.draw(st.sampled_from([STORED, DEFLATED])),
            buffer=data.draw(st.sampled_from([io.BytesIO, Pipe]))(),
        )
    )
    position = data.draw(st.integers(0, whole.index(b"PK\x01\x02")))
    new = data.draw(st.binary(min_size=1, max_size=6))
    whole[position : position + len(new)] = new
    with suppress(ValueError):
        assert unzip_member(bytes(whole), 400) == content


def test_a_lack_of_memory_is_no_fault_of_the_archive(memory, monkeypatch):
    def exhausted(file):
        raise MemoryError

    container = memory.put(packed(PICTURES))
    with monkeypatch.context() as patched:
        patched.setattr(zips, "ZipDirectory", exhausted)
        with pytest.raises(MemoryError):
            list(zip_images([container], SourceOptions({})))
    memory.fail = MemoryError()
    with pytest.raises(MemoryError):
        list(zip_images([container], SourceOptions({})))
