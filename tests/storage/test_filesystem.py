import io

import pytest

from sam_pipeline.clean_text import one_line
from sam_pipeline.errors import ConfigError
from sam_pipeline.storage.filesystem import (
    absolute_uri,
    delta_storage_options,
    join_uri,
    open_filesystem,
    protocol_of,
)

LIMITS = {"connect_timeout": "5s", "timeout": "30s", "max_retries": "3", "retry_timeout": "10s"}


@pytest.fixture(autouse=True)
def _no_aws_variables(monkeypatch):
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)


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
    assert (
        absolute_uri("run")
        == absolute_uri("./x/../run/")
        == absolute_uri(f"file://{tmp_path}/run")
        == f"{tmp_path}/run"
    )
    assert absolute_uri("s3://bucket/run/") == absolute_uri("s3://bucket/run") == "s3://bucket/run"
    assert absolute_uri("memory://") == "memory://"


@pytest.mark.parametrize("uri", ["/local/run", "gs://bucket/run", "az://container/run", "memory://run"])
def test_only_s3_needs_options_of_delta(uri, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://localhost:1")
    assert delta_storage_options(uri, {"endpoint_url": "http://localhost:2"}) == {}


def test_without_options_and_variables_delta_gets_its_limits_in_time_alone():
    assert delta_storage_options("s3://bucket/run", {}) == LIMITS
    assert delta_storage_options("s3://bucket/run", {"client_kwargs": None, "config_kwargs": None}) == LIMITS


def test_time_outs_that_the_user_gave_are_those_of_delta_and_of_s3fs():
    options = {"config_kwargs": {"connect_timeout": 2, "read_timeout": 60, "max_pool_connections": 99}}
    assert delta_storage_options("s3://b/run", options) == LIMITS | {"connect_timeout": "2s", "timeout": "60s"}
    filesystem, _ = open_filesystem("s3://bucket/key", options)
    assert filesystem.config_kwargs == options["config_kwargs"] | {"retries": {"total_max_attempts": 1}}


def test_s3_is_given_time_outs_of_seconds_and_one_attempt():
    filesystem, _ = open_filesystem("s3://bucket/key", {})
    assert filesystem.retries == 1
    assert filesystem.config_kwargs == {
        "connect_timeout": 5,
        "read_timeout": 20,
        "retries": {"total_max_attempts": 1},
    }


@pytest.mark.parametrize(
    ("options", "variables", "endpoint"),
    [
        ({"endpoint_url": "https://a"}, {"AWS_ENDPOINT_URL": "https://b"}, "https://a"),
        ({"client_kwargs": {"endpoint_url": "https://a"}}, {"AWS_ENDPOINT_URL_S3": "https://b"}, "https://a"),
        ({}, {"AWS_ENDPOINT_URL": "https://b", "AWS_ENDPOINT_URL_S3": "https://c"}, "https://c"),
        ({}, {"AWS_ENDPOINT_URL": "https://b"}, "https://b"),
    ],
)
def test_the_endpoint_is_taken_from_the_options_and_then_from_the_environment(
    options, variables, endpoint, monkeypatch
):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    expected = LIMITS | {"AWS_ENDPOINT_URL": endpoint, "AWS_ALLOW_HTTP": "false"}
    assert delta_storage_options("s3://bucket/run", options) == expected
    assert delta_storage_options("s3a://bucket/run", options) == expected


def test_plain_http_is_allowed_only_for_an_endpoint_that_says_so():
    assert delta_storage_options("s3://b/run", {"endpoint_url": "http://localhost:9000"})["AWS_ALLOW_HTTP"] == "true"


def test_region_and_anonymous_access_are_translated(monkeypatch):
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-2")
    assert delta_storage_options("s3://b/run", {}) == LIMITS | {"AWS_REGION": "us-east-2"}
    monkeypatch.setenv("AWS_REGION", "us-west-1")
    assert delta_storage_options("s3://b/run", {}) == LIMITS | {"AWS_REGION": "us-west-1"}
    options = {"client_kwargs": {"region_name": "eu-west-1"}, "anon": True}
    expected = LIMITS | {"AWS_REGION": "eu-west-1", "AWS_SKIP_SIGNATURE": "true"}
    assert delta_storage_options("s3://b/run", options) == expected


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("first\nsecond", "first"),
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
