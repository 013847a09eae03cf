import logging
import time
import uuid
from collections import Counter
from functools import partial

import fsspec
import pytest

from sam_pipeline.errors import InputError, StorageUnavailableError
from sam_pipeline.storage.inputs.listing import files, store_listing
from sam_pipeline.storage.inputs.listing.files import file_images, list_files
from sam_pipeline.storage.inputs.listing.store_listing import etag_of
from sam_pipeline.storage.inputs.source_object import SourceObject, object_of_row
from sam_pipeline.storage.objects.retrying import retried
from tests.storage.inputs.fake_s3 import FakeS3
from tests.storage.inputs.listings import list_images


@pytest.fixture
def store(monkeypatch):
    """A function that makes a store of some keys the one that is listed."""

    def make(keys, **options):
        store = FakeS3(keys, **options)
        monkeypatch.setattr(files, "open_filesystem", lambda uri, options: (store, uri.removeprefix("s3://")))
        return store

    return make


def keys_in(uri):
    return [uri.removeprefix("s3://bucket/") for uri in list_images(uri, {}).images["uri"].to_pylist()]


def prefixes(store):
    return [(request["Prefix"], "Delimiter" in request) for request in store.requests]


def test_what_changes_with_an_object_is_told_in_the_words_of_each_store():
    for info in ({"ETag": '"v1"'}, {"etag": "v1", "mtime": 5}, {"blob_id": "v1", "last_modified": 5}, {"mtime": "v1"}):
        assert etag_of(info) == "v1"
    assert etag_of({"ETag": None, "mtime": 0.0}) == "0.0"
    assert etag_of({"size": 3}) is etag_of({"ETag": ""}) is None


def test_an_object_is_listed_with_its_size_and_etag(store):
    store(["in/a.jpg"])
    (row,) = list_images("s3://bucket/in", {}).images.to_pylist()
    assert object_of_row(row) == SourceObject("s3://bucket/in/a.jpg", 8, "in/a.jpg")


@pytest.mark.parametrize("page_size", [1, 2, 3, 1000])
def test_every_page_of_every_prefix_is_read_once(store, page_size):
    keys = [f"in/{folder}/{sub}/{number}.jpg" for folder in "abc" for sub in "de" for number in range(3)]
    keys += ["in/1.jpg", "in/2.jpg", "in/a/3.jpg", "in/a/d/e/f/4.jpg"]
    made = store([*keys, "in-not/1.jpg", "in.jpg", "in/a/notes.txt"], page_size=page_size)
    listing = list_images("s3://bucket/in", {})
    assert [uri.removeprefix("s3://bucket/") for uri in listing.images["uri"].to_pylist()] == sorted(keys)
    assert listing.num_skipped == 1
    assert max(Counter(map(str, made.requests)).values()) == 1


def test_a_whole_bucket_can_be_listed(store):
    store(["1.jpg", "a/2.jpg"])
    assert keys_in("s3://bucket") == ["1.jpg", "a/2.jpg"]


def test_few_prefixes_are_looked_into_and_some_listed_at_once(store):
    made = store([f"in/train/class-{number:02}/{image}.jpg" for number in range(40) for image in range(3)])
    made.on_request = lambda arguments: time.sleep(0.02)
    assert len(keys_in("s3://bucket/in")) == 120
    assert prefixes(made)[:2] == [("in/", True), ("in/train/", True)]
    assert sorted(prefixes(made)[2:]) == [(f"in/train/class-{number:02}/", False) for number in range(40)]
    assert 8 < made.max_running <= 16


def test_levels_are_not_looked_into_without_end(store):
    made = store([f"in/{'a/' * depth}{depth}.jpg" for depth in range(10)])
    assert len(keys_in("s3://bucket/in")) == 10
    assert prefixes(made) == [("in/", True), ("in/a/", True), ("in/a/a/", True), ("in/a/a/a/", False)]


def test_more_prefixes_than_requests_are_worth_are_listed_together(store, monkeypatch):
    monkeypatch.setattr(store_listing, "_MAX_SPLIT", 5)
    keys = [f"in/{number}/{image}.jpg" for number in range(6) for image in range(2)] + ["in/own.jpg", "in/note.txt"]
    made = store(keys, page_size=4)
    listing = list_images("s3://bucket/in", {})
    assert (listing.images.num_rows, listing.num_skipped) == (13, 1)
    assert len(set(listing.images["uri"].to_pylist())) == 13
    assert set(prefixes(made)) == {("in/", True), ("in/", False)}


def test_folder_markers_are_nothing_and_alone_an_empty_input(store):
    store(["in/", "in/a.jpg/", "in/b.jpg"])
    assert keys_in("s3://bucket/in") == ["in/b.jpg"]
    store(["in/"])
    with pytest.raises(InputError, match="no images in s3://bucket/in: 0 files"):
        list_images("s3://bucket/in", {})


def test_a_single_object_is_taken_whatever_its_name_and_a_missing_one_is_said_to_be(store):
    store(["in/object", "in/object-2.jpg", "in/.hidden"])
    assert keys_in("s3://bucket/in/object") == ["in/object"]
    assert keys_in("s3://bucket/in/.hidden") == ["in/.hidden"]
    with pytest.raises(InputError, match="input not found: s3://bucket/in/none"):
        list_images("s3://bucket/in/none", {})


def test_hidden_prefixes_are_not_asked_for(store, caplog):
    caplog.set_level(logging.INFO)
    made = store(["in/.snapshot/1.jpg", "in/a/@eaDir/x/2.jpg", "in/a/3.jpg", "in/.cache/4.jpg"])
    assert keys_in("s3://bucket/in") == ["in/a/3.jpg"]
    assert prefixes(made) == [("in/", True), ("in/a/", True)]
    assert caplog.messages == ["passed over 3 hidden or system folders, such as bucket/in/.cache"]


@pytest.mark.parametrize("page_size", [1, 3, 1000])
@pytest.mark.parametrize("few", [0, 16])
def test_prefixes_of_delta_tables_are_passed_over(store, caplog, monkeypatch, page_size, few):
    monkeypatch.setattr(store_listing, "_FEW", few)
    caplog.set_level(logging.INFO)
    names = ["_delta_log/0.json", "_delta_log/1.json", "part-0.jpg", "part-1.jpg", "sub/2.jpg"]
    keys = [f"in/{run}/{table}/{name}" for run in ("run1", "x/run2") for table in ("images", "masks") for name in names]
    store([*keys, "in/run1/3.jpg", "in/x/4.jpg"], page_size=page_size)
    assert keys_in("s3://bucket/in") == ["in/run1/3.jpg", "in/x/4.jpg"]
    assert caplog.messages == ["passed over 4 folders of Delta tables, such as bucket/in/run1/images"]


def test_a_prefix_with_hidden_folders_alone_has_no_images_and_is_no_missing_input(store):
    store(["in/.snapshot/1.jpg"])
    with pytest.raises(InputError, match="no images in s3://bucket/in: 0 files"):
        list_images("s3://bucket/in", {})


def test_a_glob_is_looked_for_where_it_can_match(store):
    keys = ["in/2024-01/a/1.jpg", "in/2024-01/b/2.jpg", "in/2024-02/a/3.jpg", "in/2023-01/a/4.jpg", "in/2024-01/5.jpg"]
    made = store([*keys, "in/2024-01/a/deep/6.jpg", "in/2024-01/a/7.txt"])
    assert keys_in("s3://bucket/in/2024-*/a/*.jpg") == ["in/2024-01/a/1.jpg", "in/2024-02/a/3.jpg"]
    assert sorted(prefixes(made)) == [
        *(("in/2024-", True), ("in/2024-01/", True), ("in/2024-01/a/", True)),
        *(("in/2024-02/", True), ("in/2024-02/a/", True)),
    ]
    assert list_images("s3://bucket/in/2024-*/a/*", {}).num_skipped == 1
    made.requests.clear()
    assert keys_in("s3://bucket/in/2024-0*/**/*.jpg") == [
        *("in/2024-01/5.jpg", "in/2024-01/a/1.jpg", "in/2024-01/a/deep/6.jpg", "in/2024-01/b/2.jpg"),
        "in/2024-02/a/3.jpg",
    ]
    assert all(prefix.startswith("in/2024-0") for prefix, _ in prefixes(made))


def test_a_name_that_exists_is_no_glob_and_a_bucket_never_is_one(store):
    store(["in/a[1].jpg", "in/a1.jpg", "in/b[1]/2.jpg"])
    assert keys_in("s3://bucket/in/a[1].jpg") == ["in/a[1].jpg"]
    assert keys_in("s3://bucket/in/b[1]") == ["in/b[1]/2.jpg"]
    assert keys_in("s3://bucket/in/a[12].*") == ["in/a1.jpg"]
    with pytest.raises(InputError, match=r"cannot list s3://buck\*/in: the name of a bucket must not be a pattern"):
        list_images("s3://buck*/in", {})


def test_only_the_page_that_failed_is_asked_for_again(store, clock):
    made = store([f"in/{number:03}.jpg" for number in range(50)], page_size=10)
    made.on_request = lambda arguments: made.failures.append(TimeoutError()) if len(made.requests) == 3 else None
    assert len(keys_in("s3://bucket/in")) == 50
    assert [int(request.get("ContinuationToken", 0)) for request in made.requests] == [0, 10, 20, 30, 30, 40]


def test_an_outage_is_no_shorter_listing(store, monkeypatch):
    monkeypatch.setattr(files, "retried", partial(retried, limit_s=0))
    made = store([f"in/{number:03}.jpg" for number in range(50)], page_size=10)
    made.on_request = lambda arguments: made.failures.append(TimeoutError()) if len(made.requests) >= 2 else None
    with pytest.raises(StorageUnavailableError, match="cannot list s3://bucket/in"):
        list_images("s3://bucket/in", {})


def test_a_right_that_is_missing_is_said_at_once_and_one_that_was_there_is_waited_for(store, clock):
    made = store([f"in/{number:03}.jpg" for number in range(20)], page_size=10)
    made.failures.append(PermissionError("denied"))
    with pytest.raises(InputError, match="cannot list s3://bucket/in: denied"):
        list_images("s3://bucket/in", {})
    assert len(made.requests) == 1
    made.requests.clear()
    made.on_request = lambda arguments: made.failures.append(PermissionError()) if len(made.requests) == 1 else None
    assert len(keys_in("s3://bucket/in")) == 20
    assert len(made.requests) == 3


def test_parts_come_while_later_pages_are_not_yet_asked_for(store, monkeypatch):
    monkeypatch.setattr(files, "_ROWS_AT_ONCE", 10)
    made = store([f"in/{number:03}.jpg" for number in range(100)], page_size=10)
    parts = file_images("s3://bucket/in", {})
    assert next(parts).images.num_rows == 10
    assert len(made.requests) <= 2
    assert sum(part.images.num_rows for part in parts) == 90


def test_containers_are_listed_by_their_suffixes(store):
    store(["in/b.tar", "in/a/a.TAR.GZ", "in/a/c.jpg", "in/.d.tar"])
    found = list_files("s3://bucket/in", {}, (".tar", ".tar.gz"))
    assert found == [
        SourceObject("s3://bucket/in/a/a.TAR.GZ", 13, "in/a/a.TAR.GZ"),
        SourceObject("s3://bucket/in/b.tar", 8, "in/b.tar"),
    ]
    with pytest.raises(InputError, match=r"4 files, none ending in one of \.parquet"):
        list_files("s3://bucket/in", {}, (".parquet",))


@pytest.fixture
def memory():
    """A prefix of its own on a filesystem in memory, standing for stores other than S3."""
    prefix = f"/bucket-{uuid.uuid4()}/in"
    filesystem = fsspec.filesystem("memory")
    yield filesystem, prefix
    filesystem.rm(prefix, recursive=True)


@pytest.mark.parametrize("max_split", [2, 2000])
def test_other_stores_are_listed_by_folders(memory, max_split, monkeypatch):
    monkeypatch.setattr(store_listing, "_MAX_SPLIT", max_split)
    filesystem, prefix = memory
    keys = [f"{prefix}/{folder}/{number}.jpg" for folder in "abc" for number in range(3)] + [f"{prefix}/own.jpg"]
    keys += [f"{prefix}/a/b/c/d/e/deep.jpg"]
    for key in keys:
        filesystem.pipe(key, b"data")
    found = []
    real_find = type(filesystem).find

    def find(self, path, **options):
        found.append(path.removeprefix(prefix))
        return real_find(self, path, **options)

    monkeypatch.setattr(type(filesystem), "find", find)
    listing = list_images(f"memory://{prefix}", {})
    assert listing.images["uri"].to_pylist() == sorted(f"memory://{key}" for key in keys)
    assert found == ([""] if max_split == 2 else ["/a/b/c"])


def test_hugging_face_is_asked_once(memory, monkeypatch):
    filesystem, prefix = memory
    filesystem.pipe(f"{prefix}/a/b.jpg", b"data")
    monkeypatch.setattr(type(filesystem), "protocol", ("hf", "memory"))
    monkeypatch.setattr(type(filesystem), "ls", None)
    assert list_images(f"memory://{prefix}", {}).images.num_rows == 1


@pytest.mark.s3
def test_hidden_prefixes_of_a_real_store_are_passed_over(s3, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    for name, value in s3.env.items():
        monkeypatch.setenv(name, value)
    bucket = s3.create_bucket()
    for name in ("in/a.jpg", "in/.snapshot/b.jpg", "in/x/@eaDir/c.jpg"):
        s3.put(bucket, name, b"x")
    assert list_images(f"s3://{bucket}/in", {}).images["uri"].to_pylist() == [f"s3://{bucket}/in/a.jpg"]
    assert any("passed over 2 hidden or system folders" in said for said in caplog.messages)
