import os
import pickle
import socket

import pytest

from sam_pipeline.cli.commands import main
from sam_pipeline.safety.regular_files import NotRegularFileError, open_regular
from sam_pipeline.storage.objects.filesystem import open_filesystem
from tests.storage.image_files import noise, saved

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


@pytest.fixture(params=["FIFO", "device"])
def place(request, tmp_path):
    """A function of a name → a path with that name, of a FIFO or of a link to a device, beside a folder of an image."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(saved(noise(8, 8), "PNG"))

    def make(name):
        path = tmp_path / name
        if request.param == "FIFO":
            os.mkfifo(path)
        else:
            os.symlink("/dev/zero", path)
        return path

    return make


def refusal(capsys, *arguments):
    """The line with which a command refuses its arguments, exit code 2."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


NAMES = ("a.csv", "a.csv.gz", "a.jsonl", "a.json", "a.parquet", "a.tar", "a.tar.gz", "a.zip", "a.jpg", "a")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", NAMES)
def test_an_input_that_is_no_regular_file_is_refused_in_one_line(place, tmp_path, capsys, name):
    assert "regular file" in refusal(capsys, "plan", "--input", place(name), "--output", tmp_path / "run")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["p.json", "p.jsonl", "p.parquet", "p.txt", "p"])
@pytest.mark.parametrize("flag", ["--prompts", "--regions"])
def test_prompts_that_are_no_regular_file_are_refused_in_one_line(place, tmp_path, capsys, flag, name):
    arguments = ("plan", "--input", tmp_path / "in", "--output", tmp_path / "run", flag, place(name))
    assert "regular file" in refusal(capsys, *arguments)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("flag", "name"), [("--config", "c.toml"), ("--checkpoint", "c.pth"), ("--point-grid", "g.json")]
)
def test_settings_that_are_no_regular_file_are_refused_in_one_line(place, tmp_path, capsys, flag, name):
    arguments = ("annotate", "--input", tmp_path / "in", "--output", tmp_path / "run", flag, place(name))
    assert "regular file" in refusal(capsys, *arguments)
