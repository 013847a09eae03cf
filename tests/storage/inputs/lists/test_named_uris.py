import pyarrow as pa
import pytest
from fsspec.implementations.local import LocalFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st

from sam_pipeline.config import InputConfig
from sam_pipeline.errors import ConfigError
from sam_pipeline.storage.inputs.lists.named_uris import NamedUris, named_uris, names_of
from sam_pipeline.storage.inputs.source_object import SOURCE_SCHEMA, SourceOptions

HERE = named_uris("/data/in/list.csv", SourceOptions({}))
THERE = named_uris("s3://bucket/in/list.csv", SourceOptions({}))


def resolved(naming, *names, first_row=0):
    return naming.table(pa.array(names, pa.string()), first_row).select(["uri", "error"]).to_pylist()


def one(naming, name):
    """What becomes of a name, which is the same however it is computed."""
    (row,) = resolved(naming, name)
    try:
        uri, error = naming.resolve(name), None
    except ConfigError as refused:
        uri, error = f"{naming.list_uri}#row-0", str(refused)
    assert row == {"uri": uri, "error": error}
    return row["uri"], row["error"]


def error_of(naming, name):
    uri, error = one(naming, name)
    assert uri == f"{naming.list_uri}#row-0"
    return error


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("a.jpg", "/data/in/a.jpg"),
        ("./a.jpg", "/data/in/a.jpg"),
        ("././b/a.jpg", "/data/in/b/a.jpg"),
        (".hidden/..a.jpg", "/data/in/.hidden/..a.jpg"),
        ("b/./c//a.jpg", "/data/in/b/c/a.jpg"),
        ("../other/a.jpg", "/data/other/a.jpg"),
        (".//etc/a.jpg", "/data/in/etc/a.jpg"),
        ("~/a.jpg", "/data/in/~/a.jpg"),
        ("./file:/a.jpg", "/data/in/file:/a.jpg"),
        ("file:/a.jpg", "/a.jpg"),
        ("file://localhost/a.jpg", "/a.jpg"),
        ("file:///a%20b%C3%A4%25.jpg", "/a bä%.jpg"),
        ("FILE:/a%2Fb%zz.jpg", "/a/b%zz.jpg"),
        ("/a%20b.jpg", "/a%20b.jpg"),
        ("a%20b.jpg", "/data/in/a%20b.jpg"),
        ("C:/a.jpg", "/data/in/C:/a.jpg"),
        ("a::b?token=c&sig=d#e%20 f.jpg", "/data/in/a::b?token=c&sig=d#e%20 f.jpg"),
        ("a\nb.jpg", "/data/in/a\nb.jpg"),
        ("/a.jpg", "/a.jpg"),
        ("//a//b/../c.jpg", "/a/c.jpg"),
        ("file:///a::b@c?sig=1.jpg", "/a::b@c?sig=1.jpg"),
        ("FILE:///a/", "/a"),
        ("日本.jpg", "/data/in/日本.jpg"),
    ],
)
def test_names_in_a_local_list_become_the_uris_that_fsspec_writes(name, path):
    assert one(HERE, name) == (LocalFileSystem().unstrip_protocol(path), None)


@pytest.mark.parametrize(
    ("name", "uri"),
    [
        ("a.jpg", "s3://bucket/in/a.jpg"),
        ("./b/./a.jpg", "s3://bucket/in/b/a.jpg"),
        ("b//a..jpg", "s3://bucket/in/b//a..jpg"),
        ("a@b:c::d.jpg", "s3://bucket/in/a@b:c::d.jpg"),
    ],
)
def test_names_in_a_remote_list_are_relative_to_its_folder(name, uri):
    assert one(THERE, name) == (uri, None)


@pytest.mark.parametrize("naming", [HERE, THERE])
@pytest.mark.parametrize(
    "uri",
    [
        "s3://bucket/a.jpg",
        "s3://bucket/what?.jpg",
        "s3://bucket/a::b@c.jpg",
        "s3://arn:aws:s3:us-west-2:123456789012:accesspoint/name/a.jpg",
        "gs://bucket/../a.jpg",
        "abfss://container@account.dfs.core.windows.net/a.jpg",
        "hf://datasets/owner/name@revision/a.jpg",
        "memory:///a.jpg",
    ],
)
def test_uris_of_a_storage_are_taken_as_they_are(naming, uri):
    assert one(naming, uri) == (uri, None)


def test_the_case_of_a_scheme_does_not_matter():
    assert one(THERE, "S3://Bucket/A.jpg") == ("s3://Bucket/A.jpg", None)


@pytest.mark.parametrize(
    "name",
    ["file:///etc/passwd", "FILE:///etc/passwd", "file:/etc/passwd", "file:///%65tc", "/etc/passwd", "//etc/passwd"],
)
def test_a_remote_list_names_no_local_files(name):
    assert error_of(THERE, name) == "a list that is not on this machine must not name files of it"
    with_local_root = named_uris("s3://bucket/list.csv", SourceOptions({}, InputConfig(image_root="/data/images")))
    assert "must not name files" in error_of(with_local_root, name)
    assert one(with_local_root, "a.jpg") == ("file:///data/images/a.jpg", None)


@pytest.mark.parametrize("name", ["../a.jpg", "b/../../a.jpg", "b/..", "..", "./../a.jpg"])
def test_relative_names_climb_only_from_a_local_list_in_local_folders(name):
    refusing = [
        THERE,
        named_uris("s3://bucket/list.csv", SourceOptions({}, InputConfig(image_root="/data/images"))),
        named_uris("/data/list.csv", SourceOptions({}, InputConfig(image_root="s3://bucket/images"))),
    ]
    for naming in refusing:
        assert "must not hold `..`" in error_of(naming, name)
    assert one(HERE, name)[1] is None


def test_names_start_from_the_image_root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    roots = {"images": f"file://{tmp_path}/images/", "s3://b/x/": "s3://b/x/", "file:///i%20j": "file:///i j/"}
    for root, expected in roots.items():
        naming = named_uris(f"{tmp_path}/list.csv", SourceOptions({}, InputConfig(image_root=root)))
        assert naming.list_uri == f"file://{tmp_path}/list.csv"
        assert one(naming, "a.jpg") == (f"{expected}a.jpg", None)


def test_an_image_root_at_the_top_of_a_store_cannot_smuggle_in_a_key():
    naming = named_uris("/list.csv", SourceOptions({}, InputConfig(image_root="s3://")))
    assert one(naming, "bucket/a.jpg") == ("s3://bucket/a.jpg", None)
    assert "must not hold a user name" in error_of(naming, "KEY:SECRET@bucket/a.jpg")


def test_http_is_followed_only_when_allowed():
    allowing = named_uris("s3://bucket/list.csv", SourceOptions({}, InputConfig(allow_http=True)))
    for uri in ("http://host/a.jpg", "https://host:8443/a/b@c.jpg", "https://host/a/../b.jpg"):
        assert one(allowing, uri) == (uri, None)
        assert "--allow-http" in error_of(THERE, uri)
    assert one(allowing, "HTTPS://host/a.jpg") == ("https://host/a.jpg", None)


def test_an_image_root_may_be_http_when_it_is_allowed():
    naming = named_uris("/list.csv", SourceOptions({}, InputConfig(image_root="https://host/images", allow_http=True)))
    assert one(naming, "a b.jpg") == ("https://host/images/a b.jpg", None)
    assert "must not have a query" in error_of(naming, "a.jpg?x=1")
    with pytest.raises(ConfigError, match="http"):
        named_uris("/list.csv", SourceOptions({}, InputConfig(image_root="https://host/images")))


@pytest.mark.parametrize(
    "naming", [HERE, THERE, named_uris("s3://bucket/list.csv", SourceOptions({}, InputConfig(allow_http=True)))]
)
@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("s3://b/a.jpg?X-Amz-Signature=canary", "presigned"),
        ("s3://b/a.jpg&sig=canary", "presigned"),
        ("az://c/a.jpg?sv=1&sig=canary", "presigned"),
        ("s3://canary@bucket/a.jpg", "user name"),
        ("s3://AKIA:canary@bucket/a.jpg", "user name"),
        ("abfs://c:canary@account/a.jpg", "user name"),
        ("https://user:canary@host/a.jpg", "user name"),
        ("https://host/a.jpg?canary", "query"),
        ("https//user:canary@host/redirect?to=http://x", "not the scheme"),
        ("canary canary://a", "not the scheme"),
    ],
)
def test_credentials_are_refused_and_never_repeated(naming, name, error):
    found = error_of(naming, name)
    assert error in found
    assert "canary" not in found


def test_a_relative_name_cannot_be_presigned_either():
    assert "presigned" in error_of(THERE, "a.jpg?X-Amz-Signature=canary")


@pytest.mark.parametrize("naming", [HERE, THERE])
@pytest.mark.parametrize(
    "name", ["simplecache::s3://b/a", "zip://a.jpg::s3://b/a.zip", "s3://b/a.zip::file:///etc/passwd", "::s3://b/a"]
)
def test_chains_are_refused(naming, name):
    assert "chained URIs are not supported" in error_of(naming, name)


@pytest.mark.parametrize("name", ["ftp://host/a.jpg", "zip://a.jpg", "local:///etc/passwd", "data://,a", "github://a"])
def test_unknown_schemes_are_refused(name):
    assert f"cannot open '{name.split(':')[0]}' URIs" in error_of(HERE, name)


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("file://etc/passwd", "must not name a host"),
        ("file://~/a.jpg", "must not name a host"),
        ("file://", "must hold an absolute path"),
        ("file:a.jpg", "must hold an absolute path"),
        ("file:///a%ff.jpg", "must be UTF-8"),
        ("file:///a%00.jpg", "NUL"),
    ],
)
def test_file_uris_name_a_file_of_this_machine(name, error):
    assert error in error_of(HERE, name)


@pytest.mark.parametrize("name", ["s3:/KEY:SECRET@bucket/a.jpg", "s3:bucket/a.jpg", "https:/host/a.jpg", "x+y:/a.jpg"])
@pytest.mark.parametrize("naming", [HERE, THERE])
def test_half_a_uri_is_refused_without_showing_it(naming, name):
    assert error_of(naming, name).startswith("a URI has two slashes after its scheme")


@pytest.mark.parametrize("name", [None, "", " ", "\t\n"])
def test_what_is_no_name_is_said(name):
    assert "null, empty or not text" in error_of(HERE, name)


def test_nul_characters_are_refused():
    assert "NUL" in error_of(HERE, "a\0.jpg")
    assert "NUL" in error_of(THERE, "s3://b/a\0.jpg")


def test_a_table_keeps_order_numbers_rows_from_the_first_and_carries_extra():
    names = pa.array(["a.jpg", None, "b.jpg", "ftp://x"])
    extra = pa.array(['{"n": 1}', '{"n": 2}', '{"n": 3}', '{"n": 4}'])
    table = HERE.table(names, 70_000, extra)
    assert table.schema == SOURCE_SCHEMA
    assert table["uri"].to_pylist() == [
        "file:///data/in/a.jpg",
        "file:///data/in/list.csv#row-70001",
        "file:///data/in/b.jpg",
        "file:///data/in/list.csv#row-70003",
    ]
    assert table["extra"].to_pylist() == extra.to_pylist()
    assert [error is None for error in table["error"].to_pylist()] == [True, False, True, False]
    for name in ("size_bytes", "etag", "location"):
        assert table[name].null_count == 4
    assert HERE.table(pa.array([], pa.string()), 0).num_rows == 0


PIECES = ["a", "/", "//", ".", "..", "./", ":", "::", "://", "?", "&", "@", "#", " ", "\n", "sig=1", "file", "é"]
PIECES += [
    "file://",
    "file:///",
    "s3://",
    "b/",
    "S3://",
    "abfss://",
    "http://",
    "https://h/",
    "zip://",
    "memory://",
    "\0",
]
NAMINGS = [
    NamedUris(list_uri, root, allow_http)
    for list_uri in ("file:///data/list.csv", "s3://bucket/list.csv")
    for root in ("file:///data/", "s3://bucket/in/", "s3://", "https://host/")
    for allow_http in (True, False)
]


@settings(deadline=None)  # on a busy machine one example may take long
@given(st.lists(st.lists(st.sampled_from(PIECES), max_size=6).map("".join), min_size=1, max_size=20))
def test_many_names_at_once_are_understood_as_each_alone(names):
    for naming in NAMINGS:
        for number, (row, name) in enumerate(zip(resolved(naming, *names), names, strict=True)):
            uri, error = one(naming, name)
            assert row == {"uri": uri if error is None else f"{naming.list_uri}#row-{number}", "error": error}


def test_values_of_json_that_are_not_text_are_no_names():
    assert names_of(["a", 1, None, ["b"], "\ud800", "é"]).to_pylist() == ["a", None, None, None, None, "é"]
