import pytest

from sam_pipeline.errors import ConfigError
from sam_pipeline.safety.uri_rules import check_scheme, check_uri, is_internal_address


@pytest.mark.parametrize(
    "uri",
    [
        "photos",
        "/data/photos?sig=1",
        "C:/a::b@c",
        "./s3:/bucket",
        "cam:1.jpg",
        "file:/data/a",
        "file://localhost/data/a",
        "file:///data/a::b@c?token=1.jpg",
        "s3://bucket/photos/*.jpg",
        "S3A://bucket/a@b:c.jpg",
        "s3://bucket/what?.jpg",
        "gs://bucket/a.jpg?versionId=3",
        "s3://arn:aws:s3:us-west-2:123456789012:accesspoint/name/photos",
        "gs://bucket/photos",
        "gcs://bucket/photos",
        "az://container/photos",
        "abfs://container@account.dfs.core.windows.net/photos",
        "abfss://container@account.dfs.core.windows.net/photos",
        "hf://datasets/owner/name@revision/photos",
        "memory://run",
    ],
)
def test_what_names_a_place_is_taken(uri):
    check_uri(uri)


@pytest.mark.parametrize("uri", ["s3://bucket/a.jpg?versionId=3", "S3A://bucket/[ab]?/a.jpg?versionId=3"])
def test_a_version_of_an_object_is_refused(uri):
    with pytest.raises(ConfigError, match="must not name a version"):
        check_uri(uri)


@pytest.mark.parametrize(
    "uri",
    [
        "s3://b/a.jpg?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Signature=canary",
        "s3://b/a.jpg?x=1&x-amz-security-token=canary",
        "s3://b/a.jpg?AWSAccessKeyId=canary&Signature=canary",
        "gs://b/a.jpg?X-Goog-Signature=canary",
        "gs://b/a.jpg?GoogleAccessId=canary",
        "az://c/photos?sv=2024&sig=canary",
        "az://c/photos?SIG=canary",
        "hf://datasets/o/n/a.jpg?access_token=canary",
        "s3://b?token=canary",
        "s3://b/a#X-Amz-Signature=canary",
        "s3://b/a%3FX-Amz-Signature%3Dcanary",
        "bucket.s3.amazonaws.com/a?X-Amz-Credential=canary",
        "/data/a?X-Goog-Signature=canary",
    ],
)
def test_presigned_uris_are_refused_without_showing_them(uri):
    with pytest.raises(ConfigError, match="must not be presigned") as caught:
        check_uri(uri)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    "uri",
    [
        "s3://user:canary@bucket/a",
        "s3://AKIA:can/ary@bucket/a",
        "s3://canary@bucket",
        "s3:///user:canary@bucket/a",
        "s3://user%3Acanary%40bucket/a",
        "https://user:can/ary@host/a",
        "abfs://container:canary@account.dfs.core.windows.net/a",
        "https://canary@host/a",
        "https://user:canary@host/a",
    ],
)
def test_user_names_and_passwords_are_refused_without_showing_them(uri):
    with pytest.raises(ConfigError, match="must not hold a user name, a key or a password") as caught:
        check_uri(uri, other_schemes=("https",))
    assert "canary" not in str(caught.value)
    assert "can/ary" not in str(caught.value)


@pytest.mark.parametrize("uri", ["https://host/a?x=canary", "HTTP://host?canary"])
def test_http_has_no_query_whatever_it_holds(uri):
    with pytest.raises(ConfigError, match="must not have a query") as caught:
        check_uri(uri, other_schemes=("http", "https"))
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    "uri", ["s3:/user:canary@b/a", "s3:user:canary@b", "S3A:/b", "https:/u:canary@h/a", "gs:b/a", "az:/c", "foo+bar:/x"]
)
def test_half_a_uri_is_no_path(uri):
    with pytest.raises(ConfigError, match="a URI has two slashes after its scheme") as caught:
        check_uri(uri, other_schemes=("https",))
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("uri", ["s3://", "S3A:///", "s3:///photos/", "gs://", "az:///c", "hf://", "https:///own.pth"])
def test_a_store_is_named_with_its_bucket(uri):
    with pytest.raises(ConfigError, match="must name a bucket or host"):
        check_uri(uri, other_schemes=("https",))


@pytest.mark.parametrize("uri", ["", " ", "\t"])
def test_nothing_is_no_uri(uri):
    with pytest.raises(ConfigError, match="is empty"):
        check_uri(uri)


def test_what_stands_before_the_slashes_and_is_no_scheme_is_not_shown():
    with pytest.raises(ConfigError, match="cannot open such URIs") as caught:
        check_uri("KEY/canary@b://x")
    assert "canary" not in str(caught.value)


def test_http_may_name_a_port():
    check_uri("https://host:8443/a@b/own.pth", other_schemes=("https",))


@pytest.mark.parametrize(
    "uri",
    [
        *("http://169.254.169.254/latest/meta-data/", "https://host/photos", "ftp://host/a", "sftp://host/a"),
        *("data://,a", "reference://a", "github://owner:repo@main/a", "zip://a.jpg", "local://a", "webhdfs://host/a"),
        *("://a", "photos/s3://bucket"),
    ],
)
def test_other_schemes_are_refused(uri):
    with pytest.raises(ConfigError, match=r"cannot open .* URIs: give a path, or a URI of file, s3"):
        check_uri(uri)


@pytest.mark.parametrize("uri", ["simplecache::s3://bucket/a", "zip://a.jpg::s3://b/a.zip", "s3::file://a"])
def test_chains_are_refused(uri):
    with pytest.raises(ConfigError, match=r"chained URIs are not supported|cannot open 'zip' URIs"):
        check_uri(uri)


def test_names_in_a_listing_may_look_like_anything_but_not_be_of_another_scheme():
    check_scheme("s3")
    with pytest.raises(ConfigError, match="cannot open 'http' URIs"):
        check_scheme("http")


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.8.9.10", "::1", "0.0.0.0", "::", "224.0.0.1", "ff02::1"),
        *("169.254.169.254", "169.254.170.2", "fe80::1", "fe80::1%eth0"),
        *("::ffff:169.254.169.254", "::ffff:127.0.0.1", "64:ff9b::a9fe:a9fe", "::ffff:100.100.100.200"),
        *("fd00:ec2::254", "fd20:ce::254", "100.100.100.200", "168.63.129.16", "192.0.0.192"),
    ],
)
def test_this_machine_its_neighbours_and_metadata_services_are_internal(address):
    assert is_internal_address(address)


@pytest.mark.parametrize(
    "address", ["192.0.2.1", "10.0.0.1", "192.168.1.1", "fd12::1", "2001:db8::1", "::ffff:10.0.0.1"]
)
def test_the_internet_and_private_networks_are_not(address):
    assert not is_internal_address(address)
