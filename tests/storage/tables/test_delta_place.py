import json
from datetime import UTC, datetime, timedelta

import pytest
from deltalake import DeltaTable
from s3fs import S3FileSystem

from sam_pipeline.errors import ConfigError, OutputError
from sam_pipeline.storage.inputs.listing.files import list_files
from sam_pipeline.storage.inputs.source_object import SourceObject, source_table
from sam_pipeline.storage.objects.filesystem import open_filesystem
from sam_pipeline.storage.tables.delta import create_table, open_table
from sam_pipeline.storage.tables.delta_place import Table, delta_storage_options, delta_uri
from sam_pipeline.storage.tables.plan import read_plan, write_plan
from sam_pipeline.storage.tables.schema import IMAGES_SCHEMA

GIVEN = {
    "connect_timeout": "5s",
    "timeout": "30s",
    "max_retries": "3",
    "retry_timeout": "10s",
    "AWS_ALLOW_HTTP": "false",
    "AWS_REGION": "us-east-1",
    "AWS_ACCESS_KEY_ID": "id",
    "AWS_SECRET_ACCESS_KEY": "hidden",
}


@pytest.fixture(autouse=True)
def _only_these_keys(monkeypatch, tmp_path):
    """An environment with keys and without anything else of AWS; s3fs keeps its clients by their options."""
    for name in ("ENDPOINT_URL", "ENDPOINT_URL_S3", "REGION", "DEFAULT_REGION", "PROFILE", "SESSION_TOKEN"):
        monkeypatch.delenv(f"AWS_{name}", raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    S3FileSystem.clear_instance_cache()
    yield
    S3FileSystem.clear_instance_cache()


def a_plan(output, options):
    return write_plan(output, "/in", source_table([SourceObject("file:///in/a.jpg", 1, None)]), options)


@pytest.mark.parametrize(
    ("uri", "given"),
    [
        ("/a b/ä=%/x:y", "file:///a%20b/%C3%A4%3D%25/x%3Ay"),
        ("file:///a b", "file:///a%20b"),
        ("s3://bucket", "s3://bucket"),
        ("s3a://b.c_D/a b/c:d[e]^|", "s3://b.c_D/a%20b/c%3Ad%5Be%5D%5E%7C"),
        ("gcs://bucket/run", "gs://bucket/run"),
        ("abfs://container@account.dfs.core.windows.net/run", "abfs://container@account.dfs.core.windows.net/run"),
    ],
)
def test_delta_is_given_every_name_percent_encoded(uri, given):
    assert delta_uri(uri) == given


@pytest.mark.parametrize(
    "uri",
    [
        *(
            "/a\\b",
            "/a\nb",
            "/a\x7fb",
            "/a\x85b",
            "/a\u2028b",
            "/a\uffffb",
            "/a%20b",
            "/a%2Fb",
            "/_delta_log",
            "/a/_delta_log/b",
        ),
        *("/a#b", "/a?b", "s3://b/a#b", "s3://b/a?b", "s3://b/x:y/z"),
        *("/a\udc80", "/" + 256 * "a", "/" + "ä" * 128, "/a" * 2000),
        *("s3://b/a//c", "s3://b/a/./c", "s3://b/../c", "s3://b/a%41", "s3://b/a\\c", "s3://b/" + "a/" * 460 + "a"),
        *("s3://", "s3:///b", "s3://b c/a", "s3://b:80/a", "s3://arn:aws:s3:eu-west-1:1:accesspoint/n/a"),
        *("memory://run", "hf://datasets/o/n", "http://host/a"),
    ],
)
def test_what_delta_would_take_for_another_place_is_refused_before_anything_is_written(uri):
    with pytest.raises(ConfigError) as caught:
        delta_uri(uri)
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError):
        open_table(uri, {})


@pytest.mark.parametrize("uri", ["/local/run", "gs://bucket/run", "az://container/run"])
def test_other_stores_are_configured_by_their_environment(uri, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://localhost:1")
    assert delta_storage_options(uri, {"profile": "x"}) == {}


def test_what_both_clients_of_azure_and_google_know_is_translated():
    assert delta_storage_options("az://c/run", {"account_name": "a", "anon": True}) == {
        "azure_storage_account_name": "a",
        "azure_skip_signature": "true",
    }
    assert delta_storage_options("gs://b/run", {"token": "anon"}) == {"google_skip_signature": "true"}
    with pytest.raises(ConfigError, match="only one of the two clients"):
        delta_storage_options("gs://b/run", {"endpoint_url": "http://localhost:1"})


def test_without_options_and_variables_delta_finds_its_endpoint_by_the_region(monkeypatch):
    assert delta_storage_options("s3://bucket/run", {}) == GIVEN
    assert delta_storage_options("s3://bucket/run", {"client_kwargs": None, "config_kwargs": None}) == GIVEN
    monkeypatch.setenv("AWS_REGION", "us-west-1")
    assert delta_storage_options("s3://bucket/run", {}) == GIVEN | {"AWS_REGION": "us-west-1"}


def test_time_outs_that_the_user_gave_are_those_of_delta_and_of_s3fs():
    options = {"config_kwargs": {"connect_timeout": 2, "read_timeout": 60, "max_pool_connections": 99}}
    filesystem, _ = open_filesystem("s3://bucket/key", options)
    assert filesystem.config_kwargs == options["config_kwargs"] | {"retries": {"total_max_attempts": 1}}
    assert delta_storage_options("s3://b/run", options) == GIVEN | {"connect_timeout": "2s", "timeout": "60s"}


@pytest.mark.parametrize(
    ("options", "variables", "endpoint"),
    [
        ({"endpoint_url": "https://a"}, {"AWS_ENDPOINT_URL": "https://b"}, "https://a"),
        ({"client_kwargs": {"endpoint_url": "https://a"}}, {"AWS_ENDPOINT_URL_S3": "https://b"}, "https://a"),
        ({}, {"AWS_ENDPOINT_URL": "https://b", "AWS_ENDPOINT_URL_S3": "https://c"}, "https://c"),
        ({}, {"AWS_ENDPOINT_URL": "https://b"}, "https://b"),
        ({}, {"AWS_ENDPOINT_URL": "https://b", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"}, None),
    ],
)
def test_the_endpoint_is_taken_from_the_options_and_then_from_the_environment(
    options, variables, endpoint, monkeypatch
):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    expected = GIVEN | ({"AWS_ENDPOINT_URL": endpoint} if endpoint else {})
    assert delta_storage_options("s3://bucket/run", options) == expected
    assert delta_storage_options("s3a://bucket/run", options) == expected


def test_plain_http_is_allowed_only_for_an_endpoint_that_says_so():
    assert delta_storage_options("s3://b/run", {"endpoint_url": "http://localhost:9000"})["AWS_ALLOW_HTTP"] == "true"


def test_region_and_anonymous_access_are_translated(monkeypatch):
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-2")
    here = {"AWS_REGION": "us-east-2", "AWS_ENDPOINT_URL": "https://s3.us-east-2.amazonaws.com"}
    assert delta_storage_options("s3://b/run", {}) == GIVEN | here
    options = {"client_kwargs": {"region_name": "eu-west-1"}, "anon": True}
    given = delta_storage_options("s3://b/run", options)
    assert (given["AWS_REGION"], given["AWS_SKIP_SIGNATURE"]) == ("eu-west-1", "true")
    assert "AWS_ACCESS_KEY_ID" not in given


def test_buckets_in_the_name_of_the_host_are_so_for_both_clients():
    options = {"endpoint_url": "https://store", "config_kwargs": {"s3": {"addressing_style": "virtual"}}}
    given = delta_storage_options("s3://bucket/run", options)
    assert given["AWS_ENDPOINT_URL"] == "https://bucket.store"
    assert given["AWS_VIRTUAL_HOSTED_STYLE_REQUEST"] == "true"


def test_a_session_token_goes_with_its_keys_alone(monkeypatch):
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token")
    assert delta_storage_options("s3://b/run", {}) == GIVEN | {"AWS_SESSION_TOKEN": "token"}


def test_without_credentials_the_line_is_botocores(monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(OutputError, match="Unable to locate credentials"):
        open_table("s3://bucket/run", {})
    with pytest.raises(OutputError, match=r"The config profile \(nobody\) could not be found"):
        open_table("s3://bucket/run", {"profile": "nobody"})


PROFILES = """
[profile lab]
region = eu-central-1
services = lab-services
[profile other]
[services lab-services]
s3 =
  endpoint_url = {endpoint}
"""


@pytest.fixture
def profile(s3, tmp_path, monkeypatch):
    """A profile in files, with everything that the server asks for, and nothing in the environment."""
    (tmp_path / "config").write_text(PROFILES.format(endpoint=s3.endpoint))
    keys = f"aws_access_key_id = {s3.access_key}\naws_secret_access_key = {s3.secret_key}\n"
    (tmp_path / "credentials").write_text(f"[lab]\n{keys}")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    return "lab"


@pytest.mark.s3
@pytest.mark.parametrize("by", ["option", "variable", "option over other keys"])
def test_a_profile_alone_is_enough_for_input_and_output(s3, profile, by, monkeypatch):
    bucket = s3.create_bucket()
    s3.put(bucket, "in/a.jpg", b"x")
    options = {} if by == "variable" else {"profile": profile}
    if by == "option over other keys":
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "other")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "other")
    with monkeypatch.context() as patch:
        if by == "variable":
            patch.setenv("AWS_PROFILE", profile)
        assert [file.uri for file in list_files(f"s3://{bucket}/in", options, (".jpg",))] == [f"s3://{bucket}/in/a.jpg"]
        a_plan(f"s3://{bucket}/run", options)
        assert read_plan(f"s3://{bucket}/run", options).num_images == 1
    assert {key.partition("/")[0] for key in s3.list_keys(bucket)} == {"in", "run"}


@pytest.mark.s3
def test_credentials_that_are_renewed_serve_both_clients(s3, profile, tmp_path):
    """As of a role or SSO: these expire in minutes, so botocore asks for new ones each time."""
    expires = (datetime.now(UTC) + timedelta(minutes=5)).isoformat()
    found = {"Version": 1, "AccessKeyId": s3.access_key, "SecretAccessKey": s3.secret_key, "Expiration": expires}
    (tmp_path / "found.json").write_text(json.dumps(found))
    script = f"echo x >> {tmp_path}/asked; cat {tmp_path}/found.json"
    (tmp_path / "credentials").write_text("")
    with (tmp_path / "config").open("a") as config:
        config.write(f"[profile process]\nservices = lab-services\ncredential_process = sh -c '{script}'\n")
    bucket, options = s3.create_bucket(), {"profile": "process"}
    a_plan(f"s3://{bucket}/run", options)
    assert read_plan(f"s3://{bucket}/run", options).num_images == 1
    before = (tmp_path / "asked").read_text().count("x")
    delta_storage_options(f"s3://{bucket}/run", options)
    assert (tmp_path / "asked").read_text().count("x") > before


@pytest.mark.s3
def test_a_token_of_other_keys_in_the_environment_is_refused(profile, monkeypatch):
    monkeypatch.setenv("AWS_SESSION_TOKEN", "other")
    with pytest.raises(ConfigError, match="AWS_SESSION_TOKEN in the environment is not of the credentials in use"):
        delta_storage_options("s3://bucket/run", {"profile": profile})


@pytest.mark.s3
def test_a_table_goes_on_with_new_credentials_at_its_own_version(s3, profile, tmp_path):
    uri, options = f"s3://{s3.create_bucket()}/t", {"profile": profile}
    table = create_table(uri, IMAGES_SCHEMA, {"input": "/in"}, options)
    before = table.version()
    filesystem, _ = open_filesystem(uri, options)
    newer = Table(uri, options)
    newer.alter.set_table_properties({"sam_pipeline.x": "1"}, raise_if_not_exists=False)
    keys = filesystem.session._credentials
    keys.secret_key, right = "expired", keys.secret_key
    with pytest.raises(OSError, match="SignatureDoesNotMatch"):
        table.renew()
    keys.secret_key = right
    table.renew()
    assert (table.version(), DeltaTable.version(newer)) == (before, before + 1)
    table.update_incremental()
    assert table.version() == before + 1
