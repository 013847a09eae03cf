import logging
import os
import uuid
from functools import partial

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from sam_pipeline.errors import InputError, StorageUnavailableError
from sam_pipeline.safety import uri_rules
from sam_pipeline.storage.inputs.fetching import fetch
from sam_pipeline.storage.inputs.listing import disk_listing, files, store_listing
from sam_pipeline.storage.inputs.listing.files import file_images, list_files, object_of_info
from sam_pipeline.storage.inputs.source_object import SOURCE_SCHEMA, SourceObject, object_of_row
from sam_pipeline.storage.objects.filesystem import open_filesystem
from sam_pipeline.storage.objects.retrying import retried
from tests.storage.inputs.listings import list_images

ODD_NAMES = ["with space.jpg", "a#b.jpg", "100%25.jpg", "what?.jpg", "a[1].jpg", "a*.jpg", "é-日本.jpg", "a::b.jpg"]


def put(folder, *names, data=b"not empty"):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def uris(listing):
    return listing.images["uri"].to_pylist()


def images_of(listing):
    return [object_of_row(row) for row in listing.images.to_pylist()]


def names(listing, folder):
    return [uri.removeprefix(f"file://{folder}/") for uri in uris(listing)]


@pytest.fixture
def remote():
    """A prefix of its own on a filesystem in memory, standing for an object store: it has no folders to ask for."""
    prefix = f"bucket-{uuid.uuid4()}/in"
    filesystem = fsspec.filesystem("memory")
    yield filesystem, prefix
    if filesystem.exists(prefix):
        filesystem.rm(prefix, recursive=True)


def put_objects(remote, *names):
    filesystem, prefix = remote
    for name in names:
        filesystem.pipe(f"{prefix}/{name}", b"data")
    return f"memory://{prefix}"


def test_a_folder_is_walked_to_the_bottom_and_listed_in_order(tmp_path):
    put(tmp_path, "b.jpg", "a/z.png", "a/b/c.webp", "c.jpeg")
    listing = list_images(str(tmp_path), {})
    assert names(listing, tmp_path) == ["a/b/c.webp", "a/z.png", "b.jpg", "c.jpeg"]
    assert listing.num_skipped == 0


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "png", "webp", "tif", "tiff", "bmp", "gif", "JPG", "Tiff"])
def test_every_image_suffix_counts_in_any_case(tmp_path, suffix):
    put(tmp_path, f"a.{suffix}")
    assert names(list_images(str(tmp_path), {}), tmp_path) == [f"a.{suffix}"]


def test_other_and_hidden_files_are_counted_and_passed_over(tmp_path):
    put(tmp_path, "a.jpg", "notes.txt", "jpg", ".DS_Store", "._a.jpg", "sub/.hidden.png", "a.jpg.part")
    listing = list_images(str(tmp_path), {})
    assert names(listing, tmp_path) == ["a.jpg"]
    assert listing.num_skipped == 6


def test_what_the_listing_saw_of_a_file_is_kept(tmp_path):
    put(tmp_path, "a.jpg", data=b"12345")
    (image,) = images_of(list_images(str(tmp_path), {}))
    mtime = os.stat(tmp_path / "a.jpg").st_mtime
    assert image == SourceObject(uri=f"file://{tmp_path}/a.jpg", size_bytes=5, etag=str(mtime))


def test_empty_files_are_listed_since_they_are_data(tmp_path):
    put(tmp_path, "empty.jpg", data=b"")
    assert images_of(list_images(str(tmp_path), {}))[0].size_bytes == 0


def test_a_glob_takes_what_it_matches_and_no_folders(tmp_path):
    put(tmp_path, "a/1.jpg", "a/2.png", "b/3.jpg", "b/4.txt", "b/deep.jpg/5.jpg")
    assert names(list_images(f"{tmp_path}/*/*.jpg", {}), tmp_path) == ["a/1.jpg", "b/3.jpg"]
    assert names(list_images(f"{tmp_path}/**/*.jpg", {}), tmp_path) == ["a/1.jpg", "b/3.jpg", "b/deep.jpg/5.jpg"]
    assert names(list_images(f"{tmp_path}/a/[12].*", {}), tmp_path) == ["a/1.jpg", "a/2.png"]
    assert list_images(f"{tmp_path}/b/*", {}).num_skipped == 1


@pytest.mark.parametrize("name", ["picture", "picture.dat", ".hidden.jpg", "a.JPG"])
def test_a_file_named_outright_is_taken_whatever_its_name(tmp_path, name):
    put(tmp_path, name)
    assert names(list_images(str(tmp_path / name), {}), tmp_path) == [name]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_names_are_found_in_a_folder_and_alone_and_can_be_fetched(tmp_path, name):
    put(tmp_path, name, data=name.encode())
    in_folder = images_of(list_images(str(tmp_path), {}))
    alone = images_of(list_images(str(tmp_path / name), {}))
    assert alone == in_folder
    assert fetch(in_folder, {}, None) == [name.encode()]


@pytest.mark.parametrize("name", ["a[1]", "a*", "a?", "a b", "a#b"])
def test_a_folder_that_exists_is_never_taken_for_a_glob(tmp_path, name):
    put(tmp_path, f"{name}/1.jpg", "a1/2.jpg", "aa/3.jpg")
    assert names(list_images(str(tmp_path / name), {}), tmp_path) == [f"{name}/1.jpg"]


def test_a_relative_path_and_a_file_uri_name_the_same_images(tmp_path, monkeypatch):
    put(tmp_path, "in/a.jpg")
    monkeypatch.chdir(tmp_path)
    expected = list_images(str(tmp_path / "in"), {})
    assert list_images("in", {}) == list_images("./in/", {}) == list_images(f"file://{tmp_path}/in", {}) == expected


HIDDEN_FOLDERS = [".git", ".ipynb_checkpoints", ".snapshot", "@eaDir", "__MACOSX", "$RECYCLE.BIN", "lost+found"]
HIDDEN_FOLDERS += ["System Volume Information", "#recycle", "~snapshot"]


@pytest.fixture(params=["disk", "other store"])
def place(request, tmp_path, remote):
    """A folder to list, and how to put files into it."""
    filesystem, prefix = remote
    if request.param == "disk":
        return str(tmp_path), partial(put, tmp_path)
    return f"memory://{prefix}", lambda *names: [filesystem.pipe(f"/{prefix}/{name}", b"x") for name in names]


@pytest.mark.parametrize("max_split", [0, 2000])
def test_hidden_folders_and_those_of_systems_are_passed_over_and_counted(place, caplog, monkeypatch, max_split):
    monkeypatch.setattr(store_listing, "_MAX_SPLIT", max_split)
    caplog.set_level(logging.INFO)
    uri, put_files = place
    for folder in HIDDEN_FOLDERS:
        put_files(f"a/{folder}/1.jpg", f"a/{folder}/deep/2.jpg", f"{folder}/3.jpg")
    put_files("a/1.jpg", "a/b.git/2.jpg", "a/eaDir/3.jpg")
    assert sorted(name.rpartition("/")[2] for name in uris(list_images(uri, {}))) == ["1.jpg", "2.jpg", "3.jpg"]
    assert any(f"passed over {2 * len(HIDDEN_FOLDERS)} hidden or system folders" in said for said in caplog.messages)


@pytest.mark.parametrize("pattern", [".git", "a/.git", "a/.git/*.jpg", "a/.git/**/*.jpg", "*/.git/*.jpg", ".git/1.jpg"])
def test_a_hidden_folder_that_the_input_names_is_walked(place, pattern):
    uri, put_files = place
    put_files("a/.git/1.jpg", ".git/1.jpg", "a/.git/.git2/3.jpg")
    assert [name.rpartition("/")[2] for name in uris(list_images(f"{uri}/{pattern}", {}))] == ["1.jpg"]


def test_stars_match_no_hidden_folders(place):
    uri, put_files = place
    put_files("a/.git/1.jpg", ".git/1.jpg", "a/b/1.jpg")
    for pattern in ("*/*/*.jpg", "**/*.jpg", "a/*/1.jpg"):
        assert len(uris(list_images(f"{uri}/{pattern}", {}))) == 1
    with pytest.raises(InputError, match="no images in"):
        list_images(f"{uri}/.g*/*.jpg", {})


@pytest.mark.parametrize("max_split", [0, 2000])
def test_folders_of_delta_tables_are_passed_over_and_counted(place, caplog, monkeypatch, max_split):
    monkeypatch.setattr(store_listing, "_MAX_SPLIT", max_split)
    caplog.set_level(logging.INFO)
    uri, put_files = place
    for folder in ("run1/masks", "a/b/run2/images"):
        put_files(f"{folder}/_delta_log/0.json", f"{folder}/part-0.jpg", f"{folder}/0.jpg", f"{folder}/day=1/1.jpg")
    put_files("run1/photos/2.jpg", "a/b/3.jpg", "a/_delta_log.jpg", "b/_delta_logs/4.jpg")
    for pattern in (uri, f"{uri}/**/*.jpg"):
        found = sorted(name.rpartition("/")[2] for name in uris(list_images(pattern, {})))
        assert found == ["2.jpg", "3.jpg", "4.jpg", "_delta_log.jpg"]
        assert any("passed over 2 folders of Delta tables" in said for said in caplog.messages)
        assert not any("hidden" in said for said in caplog.messages)
        caplog.clear()


@pytest.mark.parametrize("pattern", ["run/masks", "run/masks/*.jpg", "run/masks/**/*.jpg", "*/masks/*.jpg"])
def test_the_folder_of_a_delta_table_that_the_input_names_is_walked_but_not_its_log(place, pattern):
    uri, put_files = place
    put_files("run/masks/_delta_log/0.jpg", "run/masks/1.jpg")
    assert [name.rpartition("/")[2] for name in uris(list_images(f"{uri}/{pattern}", {}))] == ["1.jpg"]


def test_links_to_folders_are_counted_and_said(tmp_path, caplog):
    put(tmp_path, "in/a.jpg", "in/b/b.jpg", "other/c.jpg")
    (tmp_path / "in/b/loop").symlink_to("..")
    (tmp_path / "in/other").symlink_to("../other")
    assert names(list_images(str(tmp_path / "in"), {}), tmp_path / "in") == ["a.jpg", "b/b.jpg"]
    assert caplog.messages == [
        f"did not follow 2 links to folders, such as {tmp_path}/in/b/loop: what is behind them is no part of the input"
    ]


def test_links_to_files_are_followed_and_links_to_folders_are_not(tmp_path):
    put(tmp_path, "real/a.jpg", data=b"12345")
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "link.jpg").symlink_to("../real/a.jpg")
    (folder / "dangling.jpg").symlink_to("nowhere")
    (folder / "loop").symlink_to(".")
    (folder / "folder.jpg").symlink_to("../real")
    listing = list_images(str(folder), {})
    assert names(listing, folder) == ["link.jpg"]
    assert images_of(listing)[0].size_bytes == 5
    (tmp_path / "whole").symlink_to("in")
    assert names(list_images(str(tmp_path / "whole"), {}), tmp_path / "whole") == ["link.jpg"]


def test_an_empty_folder_and_one_without_images_are_input_errors(tmp_path):
    with pytest.raises(InputError, match=r"no images in .*: 0 files"):
        list_images(str(tmp_path), {})
    put(tmp_path, "a.txt", "b.csv")
    with pytest.raises(InputError, match=r"no images in .*: 2 files, none ending in one of \.jpg, "):
        list_images(str(tmp_path), {})


@pytest.mark.parametrize("missing", ["none", "none/", "none.jpg", "none/*.jpg"])
def test_an_input_that_is_not_there_is_an_input_error(tmp_path, missing):
    with pytest.raises(InputError, match="none"):
        list_images(f"{tmp_path}/{missing}", {})


def test_a_folder_that_cannot_be_read_stops_the_listing_instead_of_losing_its_images(tmp_path, monkeypatch):
    put(tmp_path, "a.jpg", "locked/b.jpg")
    real_scandir = os.scandir

    def scandir(path):
        # Stands for chmod 000, which does not keep root out.
        if path.endswith("locked"):
            raise PermissionError(13, "Permission denied", path)
        return real_scandir(path)

    monkeypatch.setattr(os, "scandir", scandir)
    for pattern in ("", "/*/*.jpg", "/**/*.jpg"):
        with pytest.raises(InputError, match="Permission denied"):
            list_images(f"{tmp_path}{pattern}", {})
    # Neither looks into it.
    assert names(list_images(f"{tmp_path}/*.jpg", {}), tmp_path) == ["a.jpg"]
    with pytest.raises(InputError, match=r"no images in .*: 0 files"):
        list_images(f"{tmp_path}/a*/*.jpg", {})


def test_a_remote_prefix_is_listed_to_the_bottom(remote):
    uri = put_objects(remote, "b.jpg", "sub/a.PNG", "sub/notes.txt", "sub/.x.jpg")
    listing = list_images(uri, {})
    assert uris(listing) == [f"memory:///{remote[1]}/b.jpg", f"memory:///{remote[1]}/sub/a.PNG"]
    assert listing.num_skipped == 2
    assert list_images(f"{uri}/", {}) == listing


def test_a_single_remote_object_is_taken_whatever_its_name(remote):
    uri = put_objects(remote, "object", "object-2.jpg")
    assert uris(list_images(f"{uri}/object", {})) == [f"memory:///{remote[1]}/object"]


def test_a_remote_glob_and_a_remote_name_with_brackets_are_told_apart(remote):
    uri = put_objects(remote, "a[1].jpg", "a1.jpg")
    assert uris(list_images(f"{uri}/a[1].jpg", {})) == [f"memory:///{remote[1]}/a[1].jpg"]
    assert list_images(f"{uri}/*.jpg", {}).images.num_rows == 2


@pytest.mark.parametrize("missing", ["none", "none/*.jpg"])
def test_a_remote_prefix_without_objects_is_an_input_error(remote, missing):
    with pytest.raises(InputError, match="none"):
        list_images(f"memory://{remote[1]}/{missing}", {})


class ListedStore(MemoryFileSystem):
    """A store whose listing is given: folder markers as consoles make them, ETags in quotes."""

    protocol = "listed"
    entries = (
        {"name": "bucket/in/", "size": 0, "type": "file", "ETag": '"d41d"'},
        {"name": "bucket/in/a.jpg/", "size": 0, "type": "file"},
        {"name": "bucket/in/b.jpg", "size": 7, "type": "file", "ETag": '"9a0f-2"'},
    )

    @classmethod
    def _strip_protocol(cls, path):
        return path.removeprefix("listed://")

    def ls(self, path, **options):
        return list(self.entries)


def test_folder_markers_are_no_images_and_etags_lose_their_quotes(monkeypatch):
    monkeypatch.setattr(uri_rules, "DATA_SCHEMES", (*uri_rules.DATA_SCHEMES, "listed"))
    fsspec.register_implementation("listed", ListedStore, clobber=True)
    listing = list_images("listed://bucket/in", {})
    assert images_of(listing) == [SourceObject("listed://bucket/in/b.jpg", 7, "9a0f-2")]
    assert listing.num_skipped == 0


def test_a_bucket_without_credentials_is_one_clear_error(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))  # no profile either
    with pytest.raises(InputError, match="cannot list s3://bucket/photos: Unable to locate credentials"):
        list_images("s3://bucket/photos", {"endpoint_url": "http://127.0.0.1:1"})


@pytest.mark.parametrize("mtime", [0, 1])  # reproducible builds give files the time 0
def test_the_listing_and_the_file_alone_agree_on_what_changes_with_it(tmp_path, mtime):
    put(tmp_path, "real/a.jpg")
    os.utime(tmp_path / "real/a.jpg", (mtime, mtime))
    (tmp_path / "in").mkdir()
    (tmp_path / "in/link.jpg").symlink_to("../real/a.jpg")
    (listed,) = images_of(list_images(str(tmp_path / "in"), {}))
    filesystem, path = open_filesystem(str(tmp_path / "in/link.jpg"), {})
    assert listed == object_of_info(filesystem, filesystem.info(path))
    assert listed.etag == f"{mtime}.0"
    assert images_of(list_images(str(tmp_path / "in/link.jpg"), {})) == [listed]


def test_links_in_circles_and_what_is_no_file_are_passed_over(tmp_path):
    put(tmp_path, "a.jpg")
    (tmp_path / "x.jpg").symlink_to("y.jpg")
    (tmp_path / "y.jpg").symlink_to("x.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    listing = list_images(str(tmp_path), {})
    assert (names(listing, tmp_path), listing.num_skipped) == (["a.jpg"], 0)


def test_a_name_that_is_no_text_is_an_image_with_an_error(tmp_path):
    put(tmp_path, "a.jpg")
    put(tmp_path, "b?.jpg")
    for name in (b"/b\xff.jpg", b"/b\xfe.jpg"):
        with open(os.fsencode(tmp_path) + name, "wb"):
            pass
    listing = list_images(str(tmp_path), {})
    names = ("a.jpg", "b?.jpg", "b\\udcfe.jpg", "b\\udcff.jpg")
    assert listing.images["uri"].to_pylist() == [f"file://{tmp_path}/{name}" for name in names], "none for another"
    assert listing.images["error"].to_pylist() == [None, None, *["the name of the file is not UTF-8"] * 2]


def test_a_listing_comes_in_parts_of_the_schema(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_ROWS_AT_ONCE", 3)
    monkeypatch.setattr(disk_listing, "_ENTRIES_AT_ONCE", 2)
    put(tmp_path, *(f"{number}.jpg" for number in range(5)), "a/1.jpg", "a/2.jpg", "a/3.txt")
    parts = list(file_images(str(tmp_path), {}))
    assert all(part.images.schema == SOURCE_SCHEMA for part in parts)
    assert len(parts) > 1
    assert sum(part.images.num_rows for part in parts) == 7
    assert sum(part.num_skipped for part in parts) == 1
    listing = list_images(str(tmp_path), {})
    assert listing.images["uri"].to_pylist() == sorted(uri for part in parts for uri in part.images["uri"].to_pylist())


def test_containers_on_a_disk_are_listed_by_their_suffixes(tmp_path):
    put(tmp_path, "b.tar", "a/a.TAR.GZ", "c.jpg", ".d.tar")
    found = list_files(str(tmp_path), {}, (".tar", ".tar.gz"))
    assert [file.uri for file in found] == [f"file://{tmp_path}/a/a.TAR.GZ", f"file://{tmp_path}/b.tar"]
    assert found[0].size_bytes == len(b"not empty")
    assert [file.uri for file in list_files(str(tmp_path / "c.jpg"), {}, (".tar",))] == [f"file://{tmp_path}/c.jpg"]


def test_a_disk_that_stutters_is_asked_again(tmp_path, monkeypatch, clock):
    put(tmp_path, "a.jpg", "b/c.jpg")
    real_scandir, failures = os.scandir, [TimeoutError(110, "Connection timed out")]

    def scandir(path):
        if failures and path.endswith("b"):
            raise failures.pop()
        return real_scandir(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert names(list_images(str(tmp_path), {}), tmp_path) == ["a.jpg", "b/c.jpg"]
    monkeypatch.setattr(files, "retried", partial(retried, limit_s=0))
    failures.append(TimeoutError(110, "Connection timed out"))
    with pytest.raises(StorageUnavailableError, match="cannot list"):
        list_images(str(tmp_path), {})


def test_only_images_are_looked_at_closely(tmp_path, monkeypatch):
    put(tmp_path, "a.jpg", "b.txt", "c.txt")
    looked_at = []
    real = disk_listing._file
    monkeypatch.setattr(disk_listing, "_file", lambda entry: looked_at.append(entry.name) or real(entry))
    assert list_images(str(tmp_path), {}).num_skipped == 2
    assert looked_at == ["a.jpg"]


def test_a_pattern_with_braces_is_told_that_there_are_none(tmp_path):
    (tmp_path / "0.jpg").touch()
    with pytest.raises(
        InputError, match=r"input not found: .*\.jpg; in a pattern there are \*, \? and \[0-9\], but no"
    ):
        list_images(f"{tmp_path}/{{0..3}}.jpg", {})


def test_a_lack_of_memory_is_no_fault_of_the_folder(tmp_path, monkeypatch):
    def exhausted(*_):
        raise MemoryError("malloc of size 256 failed")

    put(tmp_path, "a.jpg")
    monkeypatch.setattr(files, "_table", exhausted)
    with pytest.raises(MemoryError):
        list_images(str(tmp_path), {})
