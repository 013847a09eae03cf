import io
import tarfile

import pytest

from sam_pipeline.storage.inputs import reading as containers
from sam_pipeline.storage.inputs.reading import fetch_images, reading_order
from sam_pipeline.storage.inputs.source_object import Location, SourceObject


def test_images_of_many_web_hosts_are_fetched_some_at_once_and_those_of_buckets_apart(monkeypatch):
    asked = []
    monkeypatch.setattr(
        containers,
        "fetch",
        lambda images, *_, **__: asked.append(len(images)) or [image.uri.encode() for image in images],
    )
    uris = [*(f"https://host-{number}/a.jpg" for number in range(10)), "s3://a/a.jpg", "s3://b/a.jpg", "s3://b/b.jpg"]
    found = list(fetch_images([SourceObject(uri, None, None) for uri in uris], {}, None))
    assert found == [uri.encode() for uri in uris]
    assert asked == [8, 2, 1, 2]


@pytest.fixture
def members(tmp_path, monkeypatch):
    """Members of a compressed archive, the last name first, and a list that notes each pass over it."""
    names = [f"{number}.png" for number in reversed(range(5))]
    with tarfile.open(tmp_path / "0.tar.gz", "w:gz") as archive:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = len(name)
            archive.addfile(info, io.BytesIO(name.encode()))
    uri = f"file://{tmp_path}/0.tar.gz"
    read, passes = containers.read_tar_members, []

    def noted(container, numbers, options):
        passes.append(list(numbers))
        return read(container, numbers, options)

    monkeypatch.setattr(containers, "read_tar_members", noted)
    images = [
        SourceObject(f"{uri}#{name}", 5, None, Location(uri, "tar", number, 5)) for number, name in enumerate(names)
    ]
    return images, passes


@pytest.mark.parametrize("order", [[4, 3, 2, 1, 0], [0, 2, 1, 3, 4], [1, 1, 3, 0]])
def test_members_of_a_compressed_archive_come_with_their_own_bytes_in_any_order(members, order):
    images = [members[0][number] for number in order]
    assert list(fetch_images(images, {}, None)) == [image.uri.partition("#")[2].encode() for image in images]


def test_in_reading_order_a_compressed_archive_is_read_once(members):
    images, passes = members
    ordered = sorted(sorted(images, key=lambda image: image.uri), key=reading_order)
    assert list(fetch_images(ordered, {}, None)) == [b"4.png", b"3.png", b"2.png", b"1.png", b"0.png"]
    assert passes == [[0, 1, 2, 3, 4]]


def test_hard_links_to_one_member_are_read_with_it(members):
    by_offset, passes = members
    offsets = [0, 2, 2, 2, 4, 4, 1, 1]
    found = list(fetch_images([by_offset[offset] for offset in offsets], {}, None))
    assert [data.decode() for data in found] == [f"{4 - offset}.png" for offset in offsets]
    assert passes == [[0, 2, 4], [1]]


def test_images_that_a_list_names_otherwise_are_fetched_some_at_once_too(tmp_path, monkeypatch):
    asked = []
    fetch = containers.fetch

    def noted(images, *arguments, **options):
        asked.append(len(images))
        return fetch(images, *arguments, **options)

    monkeypatch.setattr(containers, "fetch", noted)
    for number in range(8):
        (tmp_path / f"a {number}.png").write_bytes(b"%d" % number)
    uris = [f"file://{tmp_path}/a%20{number}.png" for number in range(7)]
    uris += [f"file://{tmp_path}/a 7.png", f"file://{tmp_path}/no%20such\\file.png"]
    *found, gone = fetch_images([SourceObject(uri, None, None) for uri in uris], {}, None)
    assert found == [b"%d" % number for number in range(8)]
    assert isinstance(gone, FileNotFoundError)
    assert asked[:3] == [8, 7, 1]


def test_a_large_image_that_a_list_names_otherwise_comes_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(containers, "_BYTES_AT_ONCE", 16)
    (tmp_path / "a b.png").write_bytes(b"large")
    (data,) = fetch_images([SourceObject(f"file://{tmp_path}/a%20b.png", None, None)], {}, None)
    assert data == b"large"
