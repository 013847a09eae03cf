import os
import pickle
import socket

import pytest

from sam_pipeline.regular_files import NotRegularFileError, open_regular
from sam_pipeline.storage.filesystem import open_filesystem

KINDS = ("FIFO", "socket", "device", "folder")


@pytest.fixture(params=KINDS)
def other(request, tmp_path, monkeypatch):
    """What is no regular file, behind a link."""
    monkeypatch.chdir(tmp_path)  # paths of sockets are short
    if request.param == "FIFO":
        os.mkfifo("it")
    elif request.param == "socket":
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind("it")
    elif request.param == "folder":
        os.mkdir("it")
    else:
        os.symlink("/dev/zero", "it")
    os.symlink("it", "link")
    return tmp_path / "link"


def test_regular_files_are_read_also_behind_links(tmp_path):
    (tmp_path / "a").write_bytes(b"content")
    os.symlink("a", tmp_path / "link")
    with open_regular(tmp_path / "link") as file:
        assert file.read() == b"content"


def test_what_is_no_regular_file_is_refused_without_waiting(other):
    with pytest.raises((NotRegularFileError, IsADirectoryError)) as refused:
        open_regular(other)
    assert str(other) in str(pickle.loads(pickle.dumps(refused.value)))


def test_the_filesystem_of_the_disk_refuses_it_too(other):
    filesystem, path = open_filesystem(f"file://{other}", {})
    for read in (filesystem.cat_file, filesystem.open, filesystem.cat):
        with pytest.raises((NotRegularFileError, IsADirectoryError)):
            read(path)


def test_a_file_that_was_replaced_between_two_looks_is_refused(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"content")
    look = os.stat(tmp_path / "a")
    (tmp_path / "a").unlink()
    os.mkfifo(tmp_path / "a")
    monkeypatch.setattr(os, "stat", lambda _: look)
    with pytest.raises(NotRegularFileError):
        open_regular(tmp_path / "a")


@pytest.mark.parametrize(
    ("start", "end", "expected"), [(None, None, b"0123"), (1, 3, b"12"), (2, 2**40, b"23"), (9, 12, b"")]
)
def test_a_range_of_a_file_takes_no_more_memory_than_the_file(tmp_path, start, end, expected):
    (tmp_path / "a").write_bytes(b"0123")
    filesystem, path = open_filesystem(f"file://{tmp_path}/a", {})
    assert filesystem.cat_file(path, start=start, end=end) == expected


def test_a_file_of_the_kernel_without_a_size_does_not_run_on():
    filesystem, path = open_filesystem("file:///proc/self/maps", {})
    assert len(filesystem.cat_file(path)) <= 1
