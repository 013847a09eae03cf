"""One file: whole or not at all, never in the place of another."""

import os

import pytest

from sam_pipeline.errors import ConfigError, OutputError
from sam_pipeline.report.writing import NewFile


def test_a_file_is_written_and_its_folders_are_made(tmp_path):
    place = tmp_path / "new" / "folder" / "page.html"
    NewFile(str(place), "/run", {}, overwrite=False).write(b"page")
    assert place.read_bytes() == b"page"
    assert os.listdir(place.parent) == ["page.html"]


def test_a_file_that_is_there_stays(tmp_path):
    place = tmp_path / "page.html"
    place.write_bytes(b"other")
    with pytest.raises(OutputError, match=r"exists already: give another name, or --overwrite"):
        NewFile(str(place), "/run", {}, overwrite=False)
    assert place.read_bytes() == b"other"
    NewFile(str(place), "/run", {}, overwrite=True).write(b"page")
    assert place.read_bytes() == b"page"


@pytest.mark.parametrize("name", ["folder", "folder/", "file/page.html"])
def test_what_cannot_be_a_file_is_refused_before_the_work(tmp_path, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("x")
    with pytest.raises((OutputError, ConfigError), match=r"folder|Not a directory"):
        NewFile(f"{tmp_path}/{name}", "/run", {}, overwrite=True)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_a_folder_without_permission_is_refused_before_the_work(tmp_path, monkeypatch):
    # Root may write anywhere, and tests often run as root.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(OutputError, match="no permission to write in"):
        NewFile(str(tmp_path / "page.html"), "/run", {}, overwrite=False)


def test_a_full_disk_leaves_nothing_half_written(tmp_path, monkeypatch):
    place = tmp_path / "page.html"
    file = NewFile(str(place), "/run", {}, overwrite=True)
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OutputError, match=r"cannot write .*No space left"):
        file.write(b"page")
    assert os.listdir(tmp_path) == []


def test_of_a_link_the_file_that_it_names_is_replaced(tmp_path):
    (tmp_path / "target").write_bytes(b"other")
    (tmp_path / "link").symlink_to("target")
    NewFile(str(tmp_path / "link"), "/run", {}, overwrite=True).write(b"page")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_bytes() == b"page"


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: os.symlink(path, path)], ids=["fifo", "circle of links"])
def test_what_is_no_regular_file_is_refused(tmp_path, make):
    make(tmp_path / "odd")
    before = os.lstat(tmp_path / "odd")
    with pytest.raises(OutputError, match=r"not a regular file|Too many levels"):
        NewFile(str(tmp_path / "odd"), "/run", {}, overwrite=True).write(b"page")
    assert os.lstat(tmp_path / "odd").st_ino == before.st_ino


@pytest.mark.parametrize("has_links", [True, False])
@pytest.mark.parametrize("is_seen", [True, False])
def test_a_file_that_appears_during_the_work_stays(tmp_path, monkeypatch, has_links, is_seen):
    place = tmp_path / "page.html"
    file = NewFile(str(place), "/run", {}, overwrite=False)
    place.write_bytes(b"other")
    if not is_seen:  # as if it appeared in the last moment
        monkeypatch.setattr(file, "_check_name", lambda: None)
    if not has_links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(PermissionError(1, "Not permitted")))
    with pytest.raises(OutputError, match="exists"):
        file.write(b"page")
    assert place.read_bytes() == b"other"
    assert os.listdir(tmp_path) == ["page.html"]


def test_a_filesystem_without_hard_links_will_do(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(PermissionError(1, "Not permitted")))
    NewFile(str(tmp_path / "page.html"), "/run", {}, overwrite=False).write(b"page")
    assert os.listdir(tmp_path) == ["page.html"]


@pytest.mark.parametrize("overwrite", [True, False])
def test_a_name_may_be_as_long_as_names_can_be(tmp_path, overwrite):
    place = tmp_path / ("a" * 250 + ".html")
    NewFile(str(place), "/run", {}, overwrite=overwrite).write(b"page")
    assert place.read_bytes() == b"page"


@pytest.mark.parametrize("place", ["s3://user:key@bucket/x.html", "ftp://host/x.html", ""])
def test_addresses_that_are_refused(place):
    with pytest.raises(ConfigError):
        NewFile(place, "/run", {}, overwrite=False)


@pytest.mark.s3
def test_an_object_is_written(s3, monkeypatch):
    for name, value in s3.env.items():
        monkeypatch.setenv(name, value)
    place = f"s3://{s3.create_bucket()}/reports/page.html"
    NewFile(place, "/run", {}, overwrite=False).write(b"page")
    with pytest.raises(OutputError, match="exists already"):
        NewFile(place, "/run", {}, overwrite=False)
    NewFile(place, "/run", {}, overwrite=True).write(b"page 2")
    with pytest.raises(OutputError, match="is a folder"):
        NewFile(place.removesuffix("/page.html"), "/run", {}, overwrite=True)
    with pytest.raises(OutputError, match="cannot write"):
        NewFile("s3://no-such-bucket-here/page.html", "/run", {}, overwrite=False).write(b"page")
