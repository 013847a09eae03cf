import io

import pytest

from sam_pipeline.errors import ConfigError
from sam_pipeline.safety.clean_text import one_line
from sam_pipeline.storage.objects.filesystem import (
    absolute_uri,
    join_uri,
    open_filesystem,
    protocol_of,
)


@pytest.mark.parametrize(
    ("uri", "protocol"),
    [("/a/b", "file"), ("a:b", "file"), ("s3://b/k", "s3"), ("S3://b/k", "s3"), ("file:///a", "file")],
)
def test_the_protocol_is_the_scheme_and_file_where_there_is_none(uri, protocol):
    assert protocol_of(uri) == protocol


@pytest.mark.parametrize("uri", ["simplecache::s3://bucket/key", "blockcache::memory://a", "zip::file:///a.zip"])
def test_chained_uris_are_refused(uri):
    with pytest.raises(ConfigError, match="chained URIs are not supported"):
        open_filesystem(uri, {})


@pytest.mark.parametrize("uri", ["zip://a.jpg::s3://bucket/a.zip", "filecache://a::s3://bucket/a", "nothing://a"])
def test_schemes_that_stand_for_no_store_are_refused_in_one_line(uri):
    with pytest.raises(ConfigError, match="cannot open ") as caught:
        open_filesystem(uri, {})
    assert "\n" not in str(caught.value)


def test_colons_in_the_name_of_a_file_are_no_chain():
    filesystem, path = open_filesystem("file:///data/a::b.jpg", {})
    assert (filesystem.protocol, path) == (("file", "local"), "/data/a::b.jpg")


def test_options_are_for_remote_filesystems_only(tmp_path):
    filesystem, path = open_filesystem(str(tmp_path), {"no_such_option": 1})
    assert filesystem.exists(path)
    remote, _ = open_filesystem("s3://bucket/key", {"anon": True, "client_kwargs": {"region_name": "eu-west-1"}})
    assert (remote.anon, remote.client_kwargs) == (True, {"region_name": "eu-west-1"})


def test_of_hugging_face_no_more_is_read_than_a_range(monkeypatch):
    filesystem, _ = open_filesystem("hf://datasets/owner/name/a.tar", {})
    opened = []
    monkeypatch.setattr(filesystem, "open", lambda path, mode, **options: opened.append(options) or io.BytesIO(b"0123"))
    assert filesystem.cat_ranges(["datasets/owner/name/a.tar"], [1], [3]) == [b"12"]
    assert [options["cache_type"] for options in opened] == ["none"]


def test_uris_are_joined_with_single_slashes():
    assert join_uri("s3://bucket/run/", "masks", "a.parquet") == "s3://bucket/run/masks/a.parquet"
    assert join_uri("/run", "masks") == "/run/masks"


def test_local_paths_become_absolute_and_folders_have_one_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spellings = [
        "run",
        "./x/../run/",
        f"file://{tmp_path}/run",
        f"file:{tmp_path}//run/",
        f"FILE://LocalHost{tmp_path}/r%75n",
    ]
    assert {absolute_uri(spelling) for spelling in spellings} == {f"{tmp_path}/run"}
    assert absolute_uri("//data//in") == "/data/in"


def test_a_tilde_is_the_home_folder_and_only_at_the_beginning(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert absolute_uri("~/run") == f"{tmp_path}/run"
    assert absolute_uri("~") == str(tmp_path)
    assert absolute_uri("./~/run") == f"{tmp_path}/~/run"
    assert absolute_uri("file:///~/run") == "/~/run"


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ("file:///a%20b", "/a b"),
        ("file:///a%C3%A4", "/aä"),
        ("file:///a%2fb%23c%3Fd", "/a/b#c?d"),
        ("file:///a b#c?d", "/a b#c?d"),
        ("file:///100%", "/100%"),
        ("/a%20b", "/a%20b"),
        ("/a#b?c", "/a#b?c"),
    ],
)
def test_only_file_uris_are_percent_decoded(given, path):
    assert absolute_uri(given) == path
    assert absolute_uri(absolute_uri(given)) == path


@pytest.mark.parametrize(
    "given", ["file://host/a", "file://a", "file:a", "file:", "file:///a%ff", "file:///a%00", "", " "]
)
def test_what_is_no_file_of_this_machine_is_refused(given):
    with pytest.raises(ConfigError):
        absolute_uri(given)


def test_uris_of_stores_keep_their_names_and_lose_their_last_slashes():
    assert absolute_uri("s3://bucket/run/") == absolute_uri("S3://bucket/run") == "s3://bucket/run"
    assert absolute_uri("s3://b/a%20b#c?d//e") == "s3://b/a%20b#c?d//e"
    assert absolute_uri("memory://") == "memory://"


def test_s3_is_given_time_outs_of_seconds_and_one_attempt():
    # With an option of its own: fsspec keeps filesystems, and botocore adds to the settings of one that was used.
    filesystem, _ = open_filesystem("s3://bucket/key", {"default_block_size": 12345})
    assert filesystem.retries == 1
    assert filesystem.config_kwargs == {
        "connect_timeout": 5,
        "read_timeout": 20,
        "retries": {"total_max_attempts": 1},
    }


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("first\nsecond", "first second"),
        ("  \n\n after blank lines \n", "after blank lines"),
        ("", "OSError"),
        ("what? no idea", "what? no idea"),
        ("[Errno 2] no such file: '/data/what?.jpg'", "[Errno 2] no such file: '/data/what?.jpg'"),
        ("404 https://h/a.jpg?X-Amz-Signature=abc gone", "404 https://h/a.jpg gone"),
        ("404 https://h/a b.jpg?X-Amz-Signature=abc gone", "404 https://h/a b.jpg gone"),
        ("url=URL('https://h/a?sig=abc'), x='https://h/b?sig=def'", "url=URL('https://h/a x='https://h/b"),
        ("cannot reach https://user:password@host/a", "cannot reach https://host/a"),
        ("red \x1b[31m and \u202e turned", "red \N{REPLACEMENT CHARACTER}[31m and \N{REPLACEMENT CHARACTER} turned"),
        ("x" * 1000, "x" * 300),
    ],
)
def test_an_error_becomes_one_clean_line_without_credentials(message, line):
    assert one_line(OSError(message)) == line
