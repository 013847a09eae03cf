import bz2
import errno
import gzip
import io
import json
import logging
import lzma
import re
import sys
import tarfile
import threading
import uuid

import pyarrow as pa
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from sam_pipeline.errors import InputError, StorageUnavailableError
from sam_pipeline.storage.inputs.containers import archives, tars
from sam_pipeline.storage.inputs.containers.tars import read_tar_members, tar_images
from sam_pipeline.storage.inputs.source_object import SourceObject
from sam_pipeline.storage.objects import range_file
from tests.storage.inputs.archive_store import ArchiveStore, names

COMPRESSORS = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}
FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
ZSTD = b"\x28\xb5\x2f\xfd"
LONG = "a/" * 120 + "long-" + "n" * 150 + ".jpg"


class File(tarfile.TarInfo):
    """A member with its content."""

    def __init__(self, name, content=b"", type_=tarfile.REGTYPE, **fields):
        super().__init__(name)
        self.content, self.type, self.size = content, type_, len(content)
        for field, value in fields.items():
            setattr(self, field, value)


def packed(*members, format_=tarfile.PAX_FORMAT, **options):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format_, **options) as archive:
        for member in members:
            archive.addfile(member, io.BytesIO(member.content))
    return buffer.getvalue()


def pictures(num, num_bytes=700):
    return [File(f"{i:04d}.jpg", bytes([i % 251]) * (num_bytes + i)) for i in range(num)]


class Store(ArchiveStore):
    suffix = ".tar"
    list_images = staticmethod(tar_images)

    def content(self, image):
        """The bytes of an image as a worker would take them."""
        where = image.location
        if where.kind == "range":
            data = self.filesystem.open(where.container.removeprefix("file://")).read()
            return data[where.offset : where.offset + where.length]
        ((number, data),) = read_tar_members(where.container, [where.offset], {})
        assert number == where.offset
        return data


@pytest.mark.parametrize("suffix", ["plain", *COMPRESSORS])
@pytest.mark.parametrize("format_", FORMATS)
def test_every_image_is_found_with_its_bytes(store, suffix, format_):
    members = [File("a.jpg", b"first"), File("folder", type_=tarfile.DIRTYPE), *pictures(20), File("z.PNG", b"")]
    data = packed(*members, format_=FORMATS[format_])
    container = store.put(COMPRESSORS.get(suffix, bytes)(data))
    images = store.index(container)
    files = [member for member in members if member.isreg()]
    assert [image.uri for image in images] == [f"{container.uri}#{member.name}" for member in files]
    assert [store.content(image) for image in images] == [member.content for member in files]
    for image, member in zip(images, files, strict=True):
        assert (image.size_bytes, image.etag, image.error, image.extra) == (member.size, "etag", None, None)
        assert image.location.container == container.uri
        assert image.location.kind == ("range" if suffix == "plain" else "tar")
        assert image.location.length == member.size


def test_what_is_compressed_shows_in_its_bytes_whatever_its_name_says(memory):
    zipped = memory.index(memory.put(gzip.compress(packed(*pictures(1))), "a.tar"))
    plain = memory.index(memory.put(packed(*pictures(1)), "a.tar.gz"))
    assert [image.location.kind for image in (*zipped, *plain)] == ["tar", "range"]


def test_a_name_that_begins_like_bzip2_is_a_name(memory):
    images = memory.index(packed(File("BZh9.jpg", b"x")))
    assert (names(images), images[0].location.kind) == (["BZh9.jpg"], "range")


def test_gzip_in_several_pieces_is_read_to_its_end(memory):
    data = packed(*pictures(9, 3000))
    images = memory.index(b"".join(gzip.compress(data[i : i + 5000]) for i in range(0, len(data), 5000)))
    assert [memory.content(image) for image in images] == [member.content for member in pictures(9, 3000)]


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="from 3.14 on Python reads zstd")
def test_zstd_is_refused_with_its_name(memory):
    container = memory.put(ZSTD + bytes(100))
    with pytest.raises(InputError, match=r"00\.tar is compressed with zstd, which this Python does not support"):
        memory.index(memory.put(ZSTD + bytes(100), "00.tar"))
    with pytest.raises(InputError, match="zstd"):
        list(read_tar_members(container.uri, [0], {}))


def test_other_files_and_hidden_ones_are_counted_and_passed_over(memory):
    skipped = []
    first = packed(
        File("a.jpg", b"x"),
        File("a.json", b"{}"),
        File(".b.jpg"),
        File("c/._d.jpg"),
        File("soft.txt", type_=tarfile.SYMTYPE, linkname="a.jpg"),
        File("hard.txt", type_=tarfile.LNKTYPE, linkname="a.jpg"),
        File("pipe.jpg", type_=tarfile.FIFOTYPE),
        File("folder.jpg", type_=tarfile.DIRTYPE),
    )
    images = memory.index(first, packed(*pictures(2)), packed(File("x.txt")), on_skipped=skipped.append)
    assert names(images) == ["a.jpg", "0000.jpg", "0001.jpg"]
    assert skipped == [6, 0, 1]


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_a_hard_link_is_an_image_with_the_bytes_of_its_target(store, compress):
    links = {"hard.jpg": "blob", "again.jpg": "hard.jpg", "a~2.jpg": "a.jpg"}
    data = packed(
        File("blob", b"older"),
        File("blob", b"blob"),
        File("a.jpg", b"a"),
        *(File(name, type_=tarfile.LNKTYPE, linkname=target) for name, target in links.items()),
    )
    images = store.index(compress(data))
    assert names(images) == ["a.jpg", *links]
    assert [store.content(image) for image in images] == [b"a", b"blob", b"blob", b"a"]
    assert [image.size_bytes for image in images] == [1, 4, 4, 1]


def test_a_sibling_that_is_a_hard_link_is_told_of(memory, caplog):
    link = File("1.cls", type_=tarfile.LNKTYPE, linkname="0.cls")
    data = packed(File("0.jpg", b"x"), File("0.cls", b"3"), File("1.jpg", b"y"), link)
    images = memory.index(data, keep=("cls",))
    assert [image.extra for image in images] == ['{"cls": "3"}', None]
    (message,) = caplog.messages
    assert message.endswith("#1.cls (a hard link)")


def test_links_that_cannot_be_followed_are_told_apart_from_files_that_are_no_images(memory, caplog):
    skipped = []
    data = packed(
        File("soft.jpg", type_=tarfile.SYMTYPE, linkname="a.jpg"),
        File("early.jpg", type_=tarfile.LNKTYPE, linkname="a.jpg"),
        File("a.jpg", b"x"),
        File("folder", type_=tarfile.DIRTYPE),
        File("gone.jpg", type_=tarfile.LNKTYPE, linkname="folder"),
        File("notes.txt"),
    )
    (image,) = memory.index(data, on_skipped=skipped.append)
    assert skipped == [1]
    (message,) = caplog.messages
    assert message.startswith(f"did not follow 3 links in archives, such as {image.uri.partition('#')[0]}#soft.jpg: ")


@pytest.mark.parametrize("format_", ["gnu", "pax"])
@pytest.mark.parametrize(
    "name", [LONG, "../../etc/x.jpg", "/abs.jpg", "a#b.jpg", "\x1b[31m\n.jpg", "é-日本.jpg", " .jpg", "a~2.jpg"]
)
def test_odd_names_are_kept_as_they_are(store, name, format_):
    images = store.index(packed(File("0.jpg", b"before"), File(name, b"odd"), format_=FORMATS[format_]))
    assert names(images) == ["0.jpg", name.lstrip("\0")]
    assert store.content(images[1]) == b"odd"


@pytest.mark.parametrize("format_", FORMATS)
def test_bytes_of_a_name_that_are_no_utf8_become_escapes(memory, format_):
    data = packed(File("caf\udce9.jpg", b"x"), format_=FORMATS[format_], encoding="utf-8", errors="surrogateescape")
    assert names(memory.index(data)) == ["caf\\xe9.jpg"]


def test_members_of_one_name_are_numbered(memory):
    data = packed(File("a.jpg", b"1"), File("b.jpg", b"2"), File("a.jpg", b"3"), File("a.jpg", b"4"))
    images = memory.index(data, data)
    assert names(images) == ["a.jpg", "b.jpg", "a.jpg~2", "a.jpg~3"] * 2
    assert [memory.content(image) for image in images[:4]] == [b"1", b"2", b"3", b"4"]


def test_pax_headers_for_all_members_and_for_one_are_followed(memory):
    data = packed(
        File("a.jpg", b"abc", pax_headers={"comment": "x" * 3000, "path": "renamed.jpg"}),
        File("b.jpg", b"de", mtime=1.5),
        pax_headers={"comment": "of all"},
    )
    images = memory.index(data)
    assert names(images) == ["renamed.jpg", "b.jpg"]
    assert [memory.content(image) for image in images] == [b"abc", b"de"]


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_sparse_files_are_refused_by_themselves(memory, compress):
    sparse = File("sparse.jpg", b"stored", pax_headers={"GNU.sparse.size": "5000", "GNU.sparse.map": "0,6"})
    images = memory.index(compress(packed(File("a.jpg", b"1"), sparse, File("b.jpg", b"2"))))
    assert names(images) == ["a.jpg", "sparse.jpg", "b.jpg"]
    assert images[1].error == "sparse file in a tar archive: not supported"
    assert images[1].location is None
    assert [memory.content(images[i]) for i in (0, 2)] == [b"1", b"2"]


def test_old_gnu_sparse_files_are_refused_too(memory):
    header = bytearray(File("sparse.jpg", b"stored").tobuf(tarfile.GNU_FORMAT))
    header[156:157] = tarfile.GNUTYPE_SPARSE
    header[386:410] = b"00000000000\0" + b"00000000006\0"
    header[483:495] = b"00000011610\0"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    data = bytes(header) + b"stored".ljust(512, b"\0") + packed(File("b.jpg", b"2"))
    images = memory.index(data)
    assert [image.error is None for image in images] == [False, True]
    assert memory.content(images[1]) == b"2"


def test_an_archive_without_members_is_none_without_images(store):
    assert store.index(packed()) == []


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "no end marker"),
        (b"short", "truncated header"),
        (b"\xff\xd8" + b"jpeg" * 1000, "invalid header"),
        (gzip.compress(b"jpeg" * 1000, mtime=0), "invalid header"),
        (b"\x1f\x8b\x08 damaged at once", "zlib|block|Not a gz|end-of-stream|invalid"),
        (b"BZh91AY&SY damaged", "end-of-stream|Invalid"),
        (b"\xfd7zXZ\0 damaged", "xz|Corrupt|end-of-stream|format"),
    ],
)
def test_what_is_no_archive_is_one_row_that_says_so_and_the_next_is_read(store, data, why):
    bad, good = store.index(data, packed(*pictures(1)))
    assert bad.uri.endswith("/00000.tar#")
    assert bad.error.startswith("not a tar archive (")
    assert re.search(why, bad.error)
    assert (bad.size_bytes, bad.etag, bad.location) == (None, "etag", None)
    assert good.error is None


CUT = packed(*pictures(3, 600), File("other.txt", b"t" * 600), File(LONG, b"l" * 900))
ENDS = [512 + 600, 2048 + 601, 2048 + 1536 + 602]  # of the first members' data


@pytest.mark.parametrize("keep", [(), ("txt",)])
@pytest.mark.parametrize("num_bytes", [*range(1, len(CUT.rstrip(b"\0")), 311), *ENDS, *(end - 1 for end in ENDS)])
def test_an_archive_that_is_cut_gives_what_is_there_and_one_row_that_says_so(memory, num_bytes, keep):
    whole = memory.index(CUT)
    *images, last = memory.index(CUT[:num_bytes], keep=keep)
    assert [image.location for image in images] == [
        image.location for image in whole if image.location.offset + image.location.length <= num_bytes
    ]
    assert last.uri.endswith("#")
    assert last.error.startswith("not a tar" if num_bytes < 512 else "archive ends early after ")


@pytest.mark.parametrize("name", COMPRESSORS)
def test_a_compressed_archive_that_is_cut_anywhere_gives_what_is_there(memory, name):
    members = [File(f"{i}.jpg", bytes(j * i * 7 % 256 for j in range(5000))) for i in range(1, 9)]
    data = COMPRESSORS[name](packed(*members))
    found = set()
    for num_bytes in range(0, len(data), max(1, len(data) // 60)):
        *images, last = memory.index(data[:num_bytes])
        assert names(images) == [member.name for member in members[: len(images)]]
        assert [memory.content(image) for image in images] == [member.content for member in members[: len(images)]]
        assert last.error is not None
        assert "#" in last.uri
        found.add(len(images))
    assert len(found) > (1 if name == "bz2" else 4)  # bzip2 gives nothing before the end of a block of 900 KB


def test_the_error_counts_members_and_says_why(memory):
    data = packed(*pictures(3, 600))  # 1536 bytes a member: header, 600 to 602 bytes, padding
    assert memory.index(data[:4600])[-1].error == "archive ends early after 3 members (unexpected end of data)"
    assert memory.index(data[:4608])[-1].error == "archive ends early after 3 members (no end marker)"
    assert memory.index(data[:3584])[-1].error == "archive ends early after 2 members (unexpected end of data)"
    assert memory.index(data[:2600])[-1].error == "archive ends early after 1 members (unexpected end of data)"
    assert memory.index(data[:1600])[-1].error == "archive ends early after 1 members (truncated header)"
    assert memory.index(data[:1000])[-1].error == "archive ends early after 0 members (unexpected end of data)"
    assert memory.index(data[: 4608 + 512])[-1].error is None  # one block of zeros is marker enough
    damaged = data[:1700] + b"?" + data[1701:]
    assert memory.index(damaged)[-1].error == "archive ends early after 1 members (bad checksum)"
    zipped = gzip.compress(data)
    ends_early = memory.index(zipped[:-5])
    assert len(ends_early) == 4
    assert "end-of-stream" in ends_early[-1].error
    wrong_crc = memory.index(zipped[:-8] + b"\0\0\0\0" + zipped[-4:])
    assert "CRC" in wrong_crc[-1].error


def test_data_behind_the_end_marker_are_told_of(memory):
    two = packed(*pictures(1)) + packed(*pictures(2))
    images = memory.index(two)
    assert len(images) == 2
    assert images[1].error == "archive ends early after 1 members (more data follow its end marker)"


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damage_anywhere_never_raises(memory, data):
    whole = bytearray(packed(*pictures(3, 200), File(LONG, b"x"), File("b.json", b"{}"), File("b.jpg", b"y")))
    used = len(whole.rstrip(b"\0"))
    for _ in range(data.draw(st.integers(1, 6))):
        position = data.draw(st.integers(0, used))
        whole[position : position + 1] = data.draw(st.binary(max_size=40))
    compress = data.draw(st.sampled_from([bytes, gzip.compress, bz2.compress]))
    images = memory.index(compress(bytes(whole)), keep=["json"])
    assert len(set(names(images))) == len(images) <= 8
    list(read_tar_members(f"{memory.root}/00000.tar", range(8), {}))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=3000), st.sampled_from([b"", b"\x1f\x8b\x08\0", b"BZh91AY&SY", b"\xfd7zXZ\0"]))
def test_bytes_of_any_kind_never_raise(memory, data, magic):
    assume(not (magic + data).startswith(ZSTD))
    (image,) = memory.index(magic + data) or [None]
    assert image is None or image.error


def patched(header, **fields):
    header = bytearray(header)
    for field, value in fields.items():
        start = {"size": 124, "type": 156}[field]
        header[start : start + len(value)] = value
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


@pytest.mark.timeout(20)
def test_a_negative_size_ends_the_archive_instead_of_leading_back(memory):
    header = File("b.jpg").tobuf()
    loop = patched(header, size=(-1024 & (256**12 - 1)).to_bytes(12, "big"))
    bad = packed(File("a.jpg", b"1"))[:1024] + loop + bytes(10240)
    *_, last = memory.index(bad)
    assert last.error == "archive ends early after 1 members (negative size)"
    pax = packed(File("b.jpg", b"", pax_headers={"size": "-4096"}))
    assert "negative size" in memory.index(pax)[-1].error


@pytest.mark.timeout(60)
def test_headers_without_end_are_not_followed(memory):
    huge = patched(File("long", type_=tarfile.GNUTYPE_LONGNAME).tobuf(tarfile.GNU_FORMAT), size=b"00077777777\0")
    bad = packed(File("a.jpg", b"1"))[:1024] + huge + bytes(2**24)
    assert memory.index(bad)[-1].error.endswith("(a member with headers of more than 1048576 bytes)")
    assert memory.num_bytes < 2**20
    chain = patched(File("x", b"n", tarfile.GNUTYPE_LONGNAME).tobuf(tarfile.GNU_FORMAT)) + b"n".ljust(512, b"\0")
    (error,) = memory.index(chain * 1000 + packed())
    assert error.error.startswith("not a tar archive (")


SAMPLE = [
    File("s/01.cls", b"7"),
    File("s/01.jpg", b"picture"),
    File("s/01.JSON", b'{"caption": "a cat \xc3\xa9", "similarity": NaN}'),
    File("s/01.npy", b"numbers"),
    File("s/02.json", b'[1e999, "\\ud800"]'),
    File("s/02.left.png", b"left"),
    File("s/02.right.png", b"right"),
    File("s/03.jpg", b"alone"),
    File("t/03.json", b'{"of": "another"}'),
]


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
@pytest.mark.parametrize("size_bytes", [7, 511, 512, 513])
def test_siblings_are_kept_with_their_image(store, compress, size_bytes):
    picture = File("0.jpg", b"p" * size_bytes)
    label = File("0.cls", b"c" * size_bytes)
    data = compress(packed(label, picture, *SAMPLE))
    skipped = []
    images = store.index(data, keep=["json", "cls", "size"], on_skipped=skipped.append)
    assert [None if image.extra is None else json.loads(image.extra) for image in images] == [
        {"cls": "c" * size_bytes},
        {"cls": "7", "json": {"caption": "a cat é", "similarity": None}},
        {"json": [None, "\ud800"]},
        {"json": [None, "\ud800"]},
        None,
    ]
    assert skipped == [1]
    assert [store.content(image) for image in images] == [picture.content, b"picture", b"left", b"right", b"alone"]
    if compress is gzip.compress:
        assert store.ranges[0][0] == 0  # and on from there: an archive begun again would be read twice
        starts = [start for start, _ in store.ranges[: len(store.ranges) - len(images)]]
        assert starts == sorted(starts)


def test_without_keep_nothing_is_kept_and_all_others_are_counted(memory):
    skipped = []
    images = memory.index(packed(*SAMPLE), on_skipped=skipped.append)
    assert [image.extra for image in images] == [None] * 4
    assert skipped == [5]


@pytest.mark.parametrize(
    ("sibling", "why"),
    [
        (File("1.json", b"{no json"), "not JSON"),
        (File("1.json", b"[" * 60_000), "not JSON"),
        (File("1.json", b"9" * 5000), "not JSON"),
        (File("1.txt", b"\xff\xfe"), "not UTF-8"),
        (File("1.txt", b"x" * (2**20 + 1)), "1048577 bytes, the limit is 1048576"),
    ],
)
def test_a_sibling_that_cannot_be_kept_is_null_and_the_log_says_why(memory, sibling, why, caplog):
    skipped, extension = [], sibling.name[2:]
    members = File("1.jpg", b"x"), sibling, File("1.cls", b"3")
    (image,) = memory.index(packed(*members), keep=[extension, "cls"], on_skipped=skipped.append)
    assert (json.loads(image.extra), skipped) == ({extension: None, "cls": "3"}, [0])
    (said,) = caplog.messages
    assert said.startswith("could not keep 1 files beside their images, such as ")
    assert said.endswith(f"#{sibling.name} ({why})")


def test_a_sibling_that_is_a_link_is_skipped(memory):
    skipped = []
    sibling = File("1.txt", type_=tarfile.SYMTYPE, linkname="/etc/passwd")
    (image,) = memory.index(packed(File("1.jpg", b"x"), sibling), keep=["txt"], on_skipped=skipped.append)
    assert (image.extra, skipped) == (None, [1])


def test_what_no_image_has_beside_it_is_said(memory, caplog):
    memory.index(packed(File("1.jpg", b"x"), File("1.cls", b"3")), keep=["cls", "jsn"])
    assert caplog.messages == ["no image has a file .jsn beside it that could be kept"]


def test_a_large_sibling_is_kept(memory):
    (image,) = memory.index(packed(File("1.jpg", b"x"), File("1.txt", b"x" * 2**20)), keep=["txt"])
    assert len(json.loads(image.extra)["txt"]) == 2**20


def test_hidden_folders_are_passed_over_and_counted_each_once(memory, caplog):
    caplog.set_level(logging.INFO)
    names = [
        "./a.jpg",
        "x/.git/1.jpg",
        "x/.git/2.jpg",
        "@eaDir/a.jpg",
        "d/..b/1.jpg",
        "d/...jpg/2.png",
        "e/b.jpg",
        ".c.jpg",
    ]
    images = memory.index(packed(*(File(name, b"x") for name in names)))
    assert [image.uri.partition("#")[2] for image in images] == ["./a.jpg", "e/b.jpg"]
    (said,) = caplog.messages
    assert said.startswith("passed over 4 hidden or system folders, such as ")


def test_the_sample_before_a_cut_keeps_what_was_found(memory):
    data = packed(File("1.cls", b"3"), File("1.jpg", b"x"), File("1.json", b"{}" + b" " * 600))
    image, error = memory.index(data[: 4 * 512 + 700], keep=["cls", "json"])
    assert image.extra == '{"cls": "3"}'
    assert error.extra is None
    assert error.error == "archive ends early after 2 members (unexpected end of data)"


@pytest.mark.parametrize(
    ("num_members", "num_bytes", "most_read", "most_requests"),
    [
        (200, 100_000, 0.1, 201),
        (20, 1_000_000, 0.012, 21),
        (20_000, 700, 1.01, 20),
        (400, 50_000, 1.01, 20),
    ],
)
def test_of_large_members_little_is_read_and_small_ones_take_few_requests(
    memory, num_members, num_bytes, most_read, most_requests
):
    data = packed(*(File(f"{i:06d}.jpg", bytes(num_bytes)) for i in range(num_members)))
    images = memory.index(data)
    assert len(images) == num_members
    assert memory.num_bytes <= most_read * len(data)
    assert len(memory.ranges) <= most_requests + 2


def test_a_sample_of_a_picture_and_small_siblings_takes_one_request(memory):
    members = []
    for i in range(50):
        members += [File(f"{i}.cls", b"7"), File(f"{i}.jpg", bytes(150_000), mtime=0.5), File(f"{i}.json", b"{}" * 20)]
    images = memory.index(packed(*members), keep=["cls"])
    assert [image.extra for image in images] == ['{"cls": "7"}'] * 50
    assert len(memory.ranges) <= 53


def test_a_compressed_archive_is_read_once_from_end_to_end(memory):
    data = packed(*(File(f"{i}.jpg", bytes(j * i % 256 for j in range(2000))) for i in range(300)))
    zipped = gzip.compress(data, 1)
    memory.index(zipped, keep=["json"])
    assert memory.num_bytes == len(zipped)


def test_the_archives_are_given_in_their_order_while_several_are_read_and_few_are_held(memory, monkeypatch):
    monkeypatch.setattr(archives, "_TABLE_ROWS", 2)
    gate, begun = threading.Event(), []

    def slow(container):
        begun.append(container.uri)
        if container.uri == "0":
            assert gate.wait(10)
        return (SourceObject(f"{container.uri}#{i}", 1, None) for i in range(5))

    def listed():
        for i in range(60):
            taken.append(i)
            if i == 9:
                gate.set()  # the first is finished last
            yield SourceObject(str(i), 1, None)

    taken = []
    tables = archives.tables_in_order(listed(), slow, None)
    first = next(tables)
    assert len(taken) <= 17
    assert {*begun} - {"0"}
    uris = pa.concat_tables([first, *tables])["uri"].to_pylist()
    assert uris == [f"{container}#{i}" for container in range(60) for i in range(5)]


def test_leaving_early_ends_the_threads(memory):
    def endless(container):
        while True:
            yield None

    def once(container):
        return iter([SourceObject("a#b", 1, None)]) if container.uri == "0" else endless(container)

    tables = archives.tables_in_order((SourceObject(str(i), 1, None) for i in range(20)), once, None)
    next(tables)
    assert [thread for thread in threading.enumerate() if thread.name.startswith("index")]
    tables.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("index")]


class Faulty:
    """Makes some reads of the memory filesystem fail."""

    def __init__(self, monkeypatch, error, times, after=0):
        self.error, self.times, self.after, self.calls = error, times, after, 0
        real = MemoryFileSystem.cat_file

        def cat_file(filesystem, path, **options):
            self.calls += 1
            if self.after < self.calls <= self.after + self.times:
                raise self.error
            return real(filesystem, path, **options)

        monkeypatch.setattr(MemoryFileSystem, "cat_file", cat_file)


@pytest.mark.parametrize("compress", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_requests_that_fail_in_passing_are_made_again(memory, monkeypatch, clock, compress):
    monkeypatch.setattr(range_file, "_MAX_READ_BYTES", 300)
    monkeypatch.setattr(range_file, "_MIN_READ_BYTES", 300)
    members = [File(f"{i}.jpg", uuid.uuid4().bytes * (i + 1)) for i in range(100)]
    container = memory.put(compress(packed(*members)))
    Faulty(monkeypatch, ConnectionResetError(errno.ECONNRESET, "reset"), times=3, after=1)
    images = memory.index(container)
    assert names(images) == [member.name for member in members]
    assert len(clock.slept) == 3


def test_an_outage_ends_planning_instead_of_planning_without_an_archive(memory, monkeypatch, clock):
    container = memory.put(packed(*pictures(3)))
    Faulty(monkeypatch, ConnectionResetError(errno.ECONNRESET, "reset"), times=10**6)
    with pytest.raises(StorageUnavailableError, match=r"cannot read memory:.*did not answer for 120 s"):
        memory.index(container)


def test_an_archive_that_is_gone_or_closed_to_us_ends_planning(memory, monkeypatch):
    with pytest.raises(InputError, match=r"cannot read memory:///none\.tar: .*none\.tar"):
        memory.index(SourceObject("memory:///none.tar", 10240, None))
    container = memory.put(gzip.compress(packed(*pictures(3))))
    Faulty(monkeypatch, PermissionError("Access Denied"), times=10**6)
    with pytest.raises(InputError, match=r"cannot read .*: Access Denied"):
        memory.index(container)


def test_an_archive_that_shrank_since_it_was_listed_ends_planning(memory, clock):
    data = packed(*pictures(3))
    with pytest.raises(InputError, match=rf"listed with {len(data) + 1} bytes, now {len(data)}"):
        memory.index(memory.put(data, size_bytes=len(data) + 1))
    assert clock.slept == []


def test_a_body_that_was_cut_is_read_again(memory, monkeypatch, clock):
    container = memory.put(packed(*pictures(3)))
    real, calls = MemoryFileSystem.cat_file, []

    def cat_file(filesystem, path, **options):
        calls.append(1)
        return real(filesystem, path, **options)[: -1 if len(calls) == 1 else None]

    monkeypatch.setattr(MemoryFileSystem, "cat_file", cat_file)
    assert len(memory.index(container)) == 3
    assert len(clock.slept) == 1


# ------------------------------------------------------------------------------------------------ reading


def unread(compress, memory, *members):
    container = memory.put(compress(packed(*members)))
    memory.ranges.clear()
    return container.uri


@pytest.mark.parametrize("compress", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_members_come_in_ascending_order_once_each(memory, compress):
    members = [File("d", type_=tarfile.DIRTYPE), *pictures(6), File("t.txt", b"text")]
    uri = unread(compress, memory, *members)
    assert list(read_tar_members(uri, [7, 2, 3, 2], {})) == [(i, members[i].content) for i in (2, 3, 7)]
    memory.ranges.clear()
    assert list(read_tar_members(uri, [], {})) == []
    assert memory.ranges == []


def test_nothing_is_read_beyond_what_is_needed(memory):
    incompressible = [File(f"{i}.jpg", uuid.uuid4().bytes * 2**14) for i in range(40)]
    uri = unread(lambda data: gzip.compress(data, 0), memory, *incompressible)
    (answer,) = read_tar_members(uri, [1], {})
    assert answer == (1, incompressible[1].content)
    assert memory.num_bytes < 2**20 + 2**20  # of ten megabytes


def test_the_members_before_a_cut_come_and_the_others_are_errors(memory):
    members = [File(f"{i}.jpg", uuid.uuid4().bytes * 300) for i in range(9)]
    data = gzip.compress(packed(*members), 0)
    container = memory.put(data[: len(data) // 2 - 3000])
    answers = dict(read_tar_members(container.uri, range(9), {}))
    assert list(answers) == list(range(9))
    good = [number for number, answer in answers.items() if isinstance(answer, bytes)]
    assert good == list(range(len(good)))
    assert 1 <= len(good) < 8
    assert [answers[number] for number in good] == [members[number].content for number in good]
    for number in range(len(good), 9):
        assert isinstance(answers[number], ValueError)
        assert str(answers[number]).startswith("archive ends early after ")


def test_a_number_that_is_not_there_and_members_that_are_no_files_are_errors_of_their_own(memory):
    folder = File("d.jpg", type_=tarfile.DIRTYPE)
    link = File("l.jpg", type_=tarfile.SYMTYPE, linkname="x")
    uri = unread(gzip.compress, memory, folder, link, File("big.jpg", b"x" * 101), File("a.jpg", b"x" * 100))
    answers = [str(answer) for _, answer in read_tar_members(uri, [0, 1, 2, 3, 4, 5], {}, max_bytes=100)]
    assert answers[:2] == ["the member is no plain file; its archive has changed since it was planned"] * 2
    assert answers[2] == "101 bytes, the limit is 100"
    assert answers[3] == str(b"x" * 100)
    assert answers[4:] == ["archive has only 4 members"] * 2


def test_an_archive_that_is_gone_is_an_answer_for_each(memory):
    answers = list(read_tar_members("memory:///none.tar.gz", [3, 4], {}))
    assert [number for number, _ in answers] == [3, 4]
    assert all(isinstance(answer, FileNotFoundError) for _, answer in answers)


@pytest.mark.parametrize(
    "error",
    [PermissionError("Access Denied"), ConnectionResetError(errno.ECONNRESET, "reset"), OSError(errno.EBUSY, "503")],
)
@pytest.mark.parametrize("compress", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_what_storage_does_wrong_is_raised_as_it_is(memory, monkeypatch, clock, error, compress):
    uri = unread(compress, memory, *pictures(5, 5000))
    Faulty(monkeypatch, error, times=10**6)
    with pytest.raises(type(error)) as caught:
        list(read_tar_members(uri, [0, 4], {}))
    assert caught.value is error
    assert clock.now <= 31


def test_a_disk_that_cannot_read_the_archive_is_an_answer_for_each(memory, monkeypatch):
    uri = unread(gzip.compress, memory, *pictures(5))
    error = OSError(errno.EIO, "Input/output error")
    Faulty(monkeypatch, error, times=10**6)
    assert list(read_tar_members(uri, [1, 2], {})) == [(1, error), (2, error)]


def test_a_member_is_not_read_for_more_than_it_may_take(memory, monkeypatch):
    monkeypatch.setattr(range_file, "_MAX_AT_ONCE_BYTES", 1000)
    uri = unread(bytes, memory, File("a.jpg", b"x" * 1001))
    ((_, answer),) = read_tar_members(uri, [0], {})
    assert "1001 bytes to be read at once, the limit is 1000" in str(answer)
    assert tars.MAX_KEPT_BYTES <= 2**20


@pytest.mark.parametrize("place", [(tars, "_check_data"), (range_file, "read_range")])
def test_a_lack_of_memory_is_no_fault_of_the_archive_when_it_is_indexed(memory, monkeypatch, place):
    def exhausted(*arguments):
        raise MemoryError

    monkeypatch.setattr(*place, exhausted)
    with pytest.raises(MemoryError):
        memory.index(packed(*pictures(3)))


def test_a_lack_of_memory_is_no_fault_of_the_archive_when_members_are_read(memory, monkeypatch):
    def exhausted(stream, member):
        raise MemoryError

    container = memory.put(gzip.compress(packed(*pictures(3))))
    monkeypatch.setattr(tars, "_read", exhausted)
    with pytest.raises(MemoryError):
        list(read_tar_members(container.uri, [1], {}))
