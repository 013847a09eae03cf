import datetime
import decimal
import gzip
import io
import json
import os
import uuid

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from sam_pipeline.config import InputConfig
from sam_pipeline.errors import ConfigError, InputError, StorageUnavailableError
from sam_pipeline.storage.inputs.lists import manifest_rows
from sam_pipeline.storage.inputs.lists.manifest import manifest_images
from sam_pipeline.storage.inputs.lists.named_uris import NamedUris
from sam_pipeline.storage.inputs.source_object import SOURCE_SCHEMA, SourceOptions

FORMATS = ["parquet", "csv", "csv.gz", "jsonl", "jsonl.gz", "ndjson", "CSV", "Parquet"]


def encoded(columns, suffix):
    """A table, given by its columns, as the bytes of a manifest."""
    kind, _, zipped = suffix.lower().partition(".")
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    buffer = io.BytesIO()
    if kind == "parquet":
        pq.write_table(pa.table(columns), buffer)
    elif kind == "csv":
        lines = [list(columns), *(["" if value is None else value for value in row.values()] for row in rows)]
        quoted = (",".join('"' + str(value).replace('"', '""') + '"' for value in line) for line in lines)
        buffer.write("\r\n".join([*quoted, ""]).encode())
    else:
        buffer.write("\n".join(json.dumps(row) for row in rows).encode())
    return gzip.compress(buffer.getvalue()) if zipped else buffer.getvalue()


def write(path, columns):
    path.write_bytes(encoded(columns, path.name.partition(".")[2]))
    return str(path)


def read(uri, **options):
    tables = list(manifest_images(str(uri), SourceOptions({}, InputConfig(**options))))
    assert all(table.schema == SOURCE_SCHEMA for table in tables)
    return pa.concat_tables(tables).to_pylist()


def uris(uri, **options):
    return [row["uri"] for row in read(uri, **options)]


def kept(uri, *names, **options):
    return [json.loads(row["extra"]) for row in read(uri, keep=names, **options)]


@pytest.fixture
def remote():
    """A prefix of its own on a filesystem in memory, standing for an object store."""
    prefix = f"/bucket-{uuid.uuid4()}"
    filesystem = fsspec.filesystem("memory")
    filesystem.mkdirs(prefix)
    yield filesystem, prefix
    filesystem.rm(prefix, recursive=True)


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_gives_the_same_images_in_its_order(tmp_path, suffix):
    path = write(tmp_path / f"m.{suffix}", {"uri": ["b.jpg", "s3://b/k.jpg", "/a.jpg", "é 日,\"'.jpg"]})
    expected = [f"file://{tmp_path}/b.jpg", "s3://b/k.jpg", "file:///a.jpg", f"file://{tmp_path}/é 日,\"'.jpg"]
    assert read(path) == [
        {"uri": uri, "size_bytes": None, "etag": None, "location": None, "error": None, "extra": None}
        for uri in expected
    ]


@pytest.mark.parametrize("suffix", FORMATS)
def test_missing_names_are_rows_with_an_error_and_a_name(tmp_path, suffix):
    path = write(tmp_path / f"m.{suffix}", {"id": [1, 2, 3, 4], "uri": ["a.jpg", None, "", "b.jpg"]})
    rows = read(path)
    assert [row["uri"] for row in rows] == [
        f"file://{tmp_path}/a.jpg",
        f"file://{path}#row-1",
        f"file://{path}#row-2",
        f"file://{tmp_path}/b.jpg",
    ]
    assert [row["error"] and "null, empty or not text" in row["error"] for row in rows] == [None, True, True, None]


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_remote_manifest_is_read_and_names_no_local_files(remote, suffix):
    filesystem, prefix = remote
    content = encoded({"path": ["a.jpg", "file:///etc/passwd", "/etc/passwd", "../b.jpg", "http://h/a.jpg"]}, suffix)
    filesystem.pipe(f"{prefix}/m.{suffix}", content)
    rows = read(f"memory:/{prefix}/m.{suffix}")
    assert rows[0]["uri"] == f"memory:/{prefix}/a.jpg"
    assert [row["uri"].rpartition("#")[2] for row in rows[1:]] == ["row-1", "row-2", "row-3", "row-4"]
    for row, error in zip(rows[1:], ["files of it", "files of it", "`..`", "--allow-http"], strict=True):
        assert error in row["error"]


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_credential_is_not_stored(tmp_path, suffix):
    path = write(tmp_path / f"m.{suffix}", {"uri": ["s3://b/a?X-Amz-Signature=canary", "https://u:canary@h/a"]})
    rows = read(path, allow_http=True)
    assert all(row["error"] for row in rows)
    assert "canary" not in json.dumps(rows)


def test_http_is_taken_when_it_is_allowed(tmp_path):
    path = write(tmp_path / "m.csv", {"url": ["https://host/a.jpg"]})
    assert uris(path, allow_http=True) == ["https://host/a.jpg"]
    assert "--allow-http" in read(path)[0]["error"]


def test_names_start_from_the_image_root(tmp_path):
    path = write(tmp_path / "m.csv", {"uri": ["a.jpg"]})
    assert uris(path, image_root="s3://bucket/in") == ["s3://bucket/in/a.jpg"]
    with pytest.raises(ConfigError, match="ftp"):
        read(path, image_root="ftp://host")


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
class TestTheColumn:
    def test_is_the_one_that_is_named(self, tmp_path, suffix):
        path = write(tmp_path / f"m.{suffix}", {"uri": ["a"], "other": ["b"]})
        assert uris(path, input_column="other") == [f"file://{tmp_path}/b"]

    def test_is_the_only_one_with_text(self, tmp_path, suffix):
        path = write(tmp_path / f"m.{suffix}", {"number": [1, 2], "odd": ["a.jpg", None], "score": [0.5, 1.5]})
        assert uris(path)[0] == f"file://{tmp_path}/a.jpg"

    @pytest.mark.parametrize("names", [["a.jpg", "b/c.PNG"], ["s3://b/1", "s3://b/2"], ["x/1", "x/2"], ["/1", "/2"]])
    def test_is_the_only_one_whose_values_look_like_names(self, tmp_path, suffix, names):
        captions = ["a dog, black/white", "see it at night. "]
        path = write(tmp_path / f"m.{suffix}", {"caption": captions, "odd": names, "author": ["x", "y"]})
        assert uris(path) == uris(path, input_column="odd")

    def test_of_captions_is_not_taken_unless_it_is_named(self, tmp_path, suffix):
        captions = ["a photograph of two dogs that run on a beach in the evening sun", "a cat"]
        path = write(tmp_path / f"m.{suffix}", {"label": [1, 2], "text": captions})
        with pytest.raises(
            InputError,
            match=r"no column of .* seems to hold names of images: 'text' begins with 'a photograph of two dogs that "
            r"run on a beach in the evening…'; say which with --input-column; its columns: 'label', 'text'$",
        ):
            read(path)
        assert len(read(path, input_column="text")) == 2

    def test_of_a_usual_name_whose_values_look_like_names_comes_first(self, tmp_path, suffix):
        path = write(tmp_path / f"m.{suffix}", {"image": ["a dog", "a cat"], "file_name": ["1.jpg", "2.jpg"]})
        assert uris(path) == [f"file://{tmp_path}/1.jpg", f"file://{tmp_path}/2.jpg"]

    def test_is_no_other_than_the_one_with_a_well_known_name(self, tmp_path, suffix):
        path = write(tmp_path / f"m.{suffix}", {"key": [1, 2], "caption": ["a", "b"]})
        if suffix == "csv":  # where numbers may be names
            assert uris(path) == [f"file://{tmp_path}/1", f"file://{tmp_path}/2"]
        else:
            with pytest.raises(InputError, match=r"cannot tell which column .*'key', 'caption'"):
                read(path)

    def test_is_the_first_well_known_one_of_several(self, tmp_path, suffix):
        columns = {"caption": ["x"], "key": ["k"], "image_path": ["p"], "url": ["u"]}
        for expected in ("u", "p", "k"):
            path = write(tmp_path / f"{expected}.{suffix}", columns)
            assert uris(path) == [f"file://{tmp_path}/{expected}"]
            columns.popitem()

    def test_may_be_empty_from_end_to_end(self, tmp_path, suffix):
        path = write(tmp_path / f"m.{suffix}", {"uri": [None, None], "caption": ["x", "y"], "text": ["x", "y"]})
        assert [row["uri"] for row in read(path)] == [f"file://{path}#row-0", f"file://{path}#row-1"]

    def test_that_is_not_there_is_named_with_those_that_are(self, tmp_path, suffix):
        path = write(tmp_path / f"m.{suffix}", {"one": ["a"], "two": ["b"]})
        for options in ({"input_column": "three"}, {"input_column": "one", "keep": ("two", "three")}):
            with pytest.raises(InputError, match=r"no column 'three' in .*; its columns: 'one', 'two'$"):
                read(path, **options)

    def test_that_cannot_be_told_is_asked_for(self, tmp_path, suffix):
        path = write(tmp_path / f"m.{suffix}", {"one": ["a"], "two": ["b"]})
        with pytest.raises(InputError, match=r"cannot tell .* with --input-column; its columns: 'one', 'two'$"):
            read(path)

    def test_is_named_with_at_most_twenty_others(self, tmp_path, suffix):
        path = write(tmp_path / f"m.{suffix}", {f"c{number}": ["x"] for number in range(25)})
        with pytest.raises(InputError, match=r"'c19' and 5 more$"):
            read(path)


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_a_column_of_numbers_holds_no_uris(tmp_path, suffix):
    path = write(tmp_path / f"m.{suffix}", {"uri": [1]})
    with pytest.raises(InputError, match=r"column 'uri' of .* holds no text"):
        read(path, input_column="uri")
    with pytest.raises(InputError, match="cannot tell which column"):
        read(path)


@pytest.mark.parametrize("kind", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())])
def test_every_type_of_text_in_parquet_is_text(tmp_path, kind):
    column = pa.array(["a.jpg", None, "a.jpg"]).cast(kind)
    pq.write_table(pa.table({"uri": column, "text": column}), tmp_path / "m.parquet")
    rows = read(tmp_path / "m.parquet", keep=("text",))
    assert [row["uri"] for row in rows][::2] == [f"file://{tmp_path}/a.jpg"] * 2
    assert [json.loads(row["extra"]) for row in rows] == [{"text": "a.jpg"}, {"text": None}, {"text": "a.jpg"}]


NAMES = ['caf\u00e9 "q" \\ / ', "tab\tline\nnul\0", "", None]


def test_kept_values_of_parquet_are_json_of_their_types(tmp_path):
    paris = datetime.timezone(datetime.timedelta(hours=1))
    columns = {
        "uri": pa.array(["a", "b", "c", "d"]),
        'odd "name"': pa.array(NAMES),
        "int": pa.array([1, -(2**63), 2**63 - 1, None]),
        "uint": pa.array([0, 2**64 - 1, 3, None], pa.uint64()),
        "float": pa.array([0.1, float("nan"), float("-inf"), 1e300]),
        "float32": pa.array([0.1, 2.0, 1e-9, None], pa.float32()),
        "bool": pa.array([True, False, None, True]),
        "day": pa.array([datetime.date(2024, 2, 29), None, None, None]),
        "naive": pa.array([datetime.datetime(2024, 2, 29, 1, 2, 3, 4000), None, None, None]),
        "aware": pa.array([datetime.datetime(2024, 2, 29, 1, 2, 3, tzinfo=paris), None, None, None]),
        "time": pa.array([datetime.time(1, 2, 3), None, None, None]),
        "decimal": pa.array([decimal.Decimal("1.20"), None, None, None]),
        "list": pa.array([[1.5, float("nan")], [], None, None]),
        "struct": pa.array([{"when": datetime.datetime(2024, 2, 29), "tags": ["é"]}, None, None, None]),
    }
    pq.write_table(pa.table(columns), tmp_path / "m.parquet")
    names = [name for name in columns if name != "uri"]
    extra = kept(tmp_path / "m.parquet", *names, input_column="uri")
    assert [list(row) for row in extra] == [names] * 4
    assert [row['odd "name"'] for row in extra] == NAMES
    assert [row["int"] for row in extra] == [1, -(2**63), 2**63 - 1, None]
    assert [row["uint"] for row in extra] == [0, 2**64 - 1, 3, None]
    assert [row["float"] for row in extra] == [0.1, None, None, 1e300]
    assert [row["float32"] for row in extra] == [0.1, 2.0, 1e-9, None]
    assert [row["bool"] for row in extra] == [True, False, None, True]
    first = extra[0]
    assert first["day"] == "2024-02-29"
    assert first["naive"] == "2024-02-29T01:02:03.004000"
    assert datetime.datetime.fromisoformat(first["aware"]) == datetime.datetime(2024, 2, 29, 1, 2, 3, tzinfo=paris)
    assert first["aware"][10] == "T"
    assert first["time"] == "01:02:03.000000"
    assert first["decimal"] == 1.2
    assert first["list"] == [1.5, None]
    assert first["struct"] == {"when": "2024-02-29T00:00:00", "tags": ["é"]}


@pytest.mark.parametrize("kind", [pa.binary(), pa.list_(pa.large_binary()), pa.struct([("bytes", pa.binary())])])
def test_bytes_cannot_be_kept(tmp_path, kind):
    pq.write_table(pa.table({"uri": ["a"], "image": pa.nulls(1, kind)}), tmp_path / "m.parquet")
    with pytest.raises(InputError, match="column 'image' cannot be kept: its type is "):
        read(tmp_path / "m.parquet", keep=("image",))


def test_what_is_kept_of_csv_is_text(tmp_path):
    (tmp_path / "m.csv").write_text('uri,zip,note\na,007,"two\nlines, ""quoted"""\nb,,2024-01-01\n')
    assert kept(tmp_path / "m.csv", "note", "zip") == [
        {"note": 'two\nlines, "quoted"', "zip": "007"},
        {"note": "2024-01-01", "zip": ""},
    ]


def test_what_is_kept_of_json_lines_is_as_it_stands_there(tmp_path):
    records = [
        {"uri": "a", "day": "2024-01-01", "n": 2**64 + 1, "deep": {"x": [1, None, "2024-01-01T00:00:00"]}},
        {"uri": "b", "day": 3, "half": "\ud800", "more": True},
        {"uri": "c", "n": float("nan")},
    ]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, records)))
    names = ("day", "n", "deep", "half")
    extra = kept(tmp_path / "m.jsonl", *names)
    expected = [{name: record.get(name) for name in names} for record in records]
    expected[2]["n"] = None
    assert extra == expected


def test_the_column_of_uris_may_be_kept_too(tmp_path):
    for suffix in ("parquet", "csv", "jsonl"):
        path = write(tmp_path / f"m.{suffix}", {"uri": ["a", None]})
        assert [list(row) for row in kept(path, "uri")] == [["uri"], ["uri"]]


def test_rows_of_json_lines_may_lack_the_column_or_hold_something_else(tmp_path):
    lines = ['{"uri": "a"}', "", '{"x": 1}', '{"uri": 7, "x": 1}', "   ", '{"uri": "\\ud800"}', '{"uri": "e"}', ""]
    (tmp_path / "m.jsonl").write_text("\n".join(lines))
    for options in ({}, {"keep": ("x",)}):
        rows = read(tmp_path / "m.jsonl", input_column="uri", **options)
        assert [row["error"] is None for row in rows] == [True, False, False, False, True]
        assert [row["uri"].rpartition("#")[2] for row in rows[1:4]] == ["row-1", "row-2", "row-3"]


@pytest.mark.parametrize("keep", [(), ("n",)])
def test_many_rows_of_every_format_are_all_there_and_numbered(tmp_path, monkeypatch, keep):
    monkeypatch.setattr(manifest_rows, "_BLOCK_BYTES", 100_000)
    num_rows = 70_000
    names = [f"{number}.jpg" for number in range(num_rows)]
    names[69_999] = None
    for suffix in ("parquet", "csv", "csv.gz", "jsonl"):
        path = write(tmp_path / f"m.{suffix}", {"n": [7] * num_rows, "uri": names})
        tables = list(manifest_images(path, SourceOptions({}, InputConfig(keep=keep))))
        assert max(table.num_rows for table in tables) <= 65_536
        assert len(tables) > 1
        rows = pa.concat_tables(tables)
        assert rows["uri"].to_pylist()[:-1] == [f"file://{tmp_path}/{name}" for name in names[:-1]]
        assert rows["uri"][-1].as_py() == f"file://{path}#row-69999"
        assert rows["error"].null_count == num_rows - 1


def test_one_block_with_an_odd_line_does_not_disturb_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr(manifest_rows, "_BLOCK_BYTES", 64)
    lines = [json.dumps({"uri": f"{number}.jpg" if number != 50 else 50}) for number in range(100)]
    (tmp_path / "m.jsonl").write_text("\n".join(lines))
    rows = read(tmp_path / "m.jsonl")
    assert [number for number, row in enumerate(rows) if row["error"]] == [50]
    lines[80] = '{"uri": "cut'
    (tmp_path / "m.jsonl").write_text("\n".join(lines))
    with pytest.raises(InputError, match="line 81 is not a JSON object"):
        read(tmp_path / "m.jsonl")


def test_a_column_of_csv_that_changes_its_look_is_still_text(tmp_path):
    lines = ["uri,n", *(f"{number},{number}" for number in range(200_000)), "a.jpg,many"]
    (tmp_path / "m.csv").write_text("\n".join(lines))
    assert uris(tmp_path / "m.csv", keep=("n",))[-1] == f"file://{tmp_path}/a.jpg"


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path, suffix):
    path = tmp_path / f"m.{suffix}"
    path.write_bytes(b"\xef\xbb\xbf" + encoded({"uri": ["a"], "x": ["b"]}, suffix))
    assert uris(path) == [f"file://{tmp_path}/a"]


@pytest.mark.parametrize("first_line", ["s3://b/a.jpg?sig=canary", "a.JPG", "a.jpg,cat", "/data/1"])
def test_csv_without_a_header_does_not_lose_its_first_image(tmp_path, first_line):
    (tmp_path / "m.csv").write_text(f"{first_line}\nb.jpg,dog\n" if "," in first_line else f"{first_line}\nb.jpg\n")
    with pytest.raises(InputError, match="first line of a CSV manifest must name its columns") as caught:
        read(tmp_path / "m.csv")
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("m.csv", 'caption;uri\n"a, b; c";a.jpg\n"d";b.jpg\n'),
        ("m.csv", '"a;b;c",uri\nx,a.jpg\ny,b.jpg\n'),
        ("m.csv", "caption\turi\na, b; c\ta.jpg\nd\tb.jpg\n"),
        ("m.csv", "caption|uri\na|a.jpg\nd|b.jpg\n"),
        ("m.csv", "caption;uri\ra, b, c;a.jpg\rd, e, f;b.jpg\r"),
        ("m.tsv", "caption\turi,or not\na\ta.jpg\nd\tb.jpg\n"),
        ("m.tsv.gz", "uri\tcaption\na.jpg\ta,b\nb.jpg\tc;d\n"),
        ("m.TSV", "uri\na.jpg\nb.jpg\n"),
        ("m.txt", "a.jpg\r\n\r\n  b.jpg  \r\n"),
        ("m.txt", "a.jpg\rb.jpg\r"),
        ("m.lst", "\ufeffa.jpg\nb.jpg"),
        ("m.txt.gz", "a.jpg\nb.jpg\n\n"),
    ],
)
def test_lists_divided_by_other_characters_and_lists_of_lines(tmp_path, name, content):
    data = content.encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    assert uris(tmp_path / name) == [f"file://{tmp_path}/a.jpg", f"file://{tmp_path}/b.jpg"]


def test_names_of_a_text_file_may_look_like_anything(tmp_path):
    names = ["images/a b,c;d.jpg", "# 1", "0001", "a\u2028b.jpg", "a\x85b.jpg", "a\x0bb.jpg", "a\x1cb.jpg"]
    (tmp_path / "m.txt").write_text("\n".join([*names, ""]))
    assert uris(tmp_path / "m.txt") == [f"file://{tmp_path}/{name}" for name in names]
    assert kept(tmp_path / "m.txt", "path")[0] == {"path": "images/a b,c;d.jpg"}
    with pytest.raises(InputError, match=r"no column 'label' in .*; its columns: 'path'$"):
        read(tmp_path / "m.txt", keep=("label",))


@pytest.mark.parametrize("line", ["a.jpg 7", "x/a.jpeg\t1", "a.PNG,dog"])
def test_a_text_file_with_more_than_a_path_in_its_lines_says_so(tmp_path, line):
    (tmp_path / "m.txt").write_text(f"{line}\n" * 3)
    with pytest.raises(InputError, match=r"cannot read .*m\.txt: each line must be one path, but some hold more"):
        read(tmp_path / "m.txt")


@pytest.mark.parametrize("name", ["m.csv", "m.tsv", "m.txt", "m.jsonl"])
def test_utf_16_is_named(tmp_path, name):
    (tmp_path / name).write_bytes('{"uri": "a.jpg"}\n'.encode("utf-16"))
    with pytest.raises(InputError, match=rf"cannot read .*{name}: its text is UTF-16: save it as UTF-8"):
        read(tmp_path / name)


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_manifest_without_rows_is_an_input_error(tmp_path, suffix):
    path = write(tmp_path / f"m.{suffix}", {"uri": pa.array([], pa.string())})
    with pytest.raises(InputError, match=r"no images in .*: it has no rows"):
        read(path)


def test_a_manifest_of_bad_rows_only_is_still_a_listing(tmp_path):
    assert all(row["error"] for row in read(write(tmp_path / "m.csv", {"uri": ["ftp://h/a", "zip://b"]})))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("m.parquet", b"PAR1 not really"),
        ("m.parquet", b""),
        ("m.csv", b""),
        ("m.csv", b"uri,x\na,b\nc\n"),
        ("m.csv", b"uri\n\xff\xfe\n"),
        ("m.csv.gz", b"uri\na\n"),
        ("m.csv.gz", encoded({"uri": [os.urandom(50).hex() for _ in range(1000)]}, "csv.gz")[:-5000]),
        ("m.jsonl.gz", encoded({"uri": [os.urandom(50).hex() for _ in range(1000)]}, "jsonl.gz")[:-5000]),
        ("m.jsonl", b'[{"uri": "a"}]'),
        ("m.jsonl", b'{"uri":\n "a"}'),
        ("m.jsonl", b"uri\na"),
        ("m.jsonl", b"[" * 100_000),
    ],
)
def test_files_of_another_format_are_input_errors_of_one_line(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        read(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_line_without_end_is_not_held_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(manifest_rows, "_MAX_LINE_BYTES", 1 << 20)
    monkeypatch.setattr(manifest_rows, "_BLOCK_BYTES", 1 << 18)
    (tmp_path / "m.jsonl").write_bytes(b" " * (3 << 20))
    with pytest.raises(InputError, match="a line of more than 1 MB"):
        read(tmp_path / "m.jsonl")


def test_what_is_not_there_or_no_manifest_is_an_input_error(tmp_path, remote):
    with pytest.raises(InputError, match=r"input not found: .*none\.csv"):
        read(tmp_path / "none.csv")
    with pytest.raises(InputError, match=r"input not found: .*none\.csv"):
        read(f"memory:/{remote[1]}/none.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(InputError, match="it is a folder"):
        read(tmp_path / "folder.csv")
    (tmp_path / "m.doc").write_text("a")
    with pytest.raises(InputError, match=r"not a manifest: .*m\.doc does not end in one of \.parquet, "):
        read(tmp_path / "m.doc")


def test_a_remote_manifest_is_read_in_parts_each_tried_again(remote, monkeypatch, clock):
    filesystem, prefix = remote
    names = [f"{number}-{os.urandom(100).hex()}.jpg" for number in range(100_000)]
    filesystem.pipe(f"{prefix}/m.jsonl", encoded({"uri": names}, "jsonl"))
    real, ranges = MemoryFileSystem.cat_file, []

    def cat_file(self, path, start=None, end=None, **options):
        ranges.append(end - start)
        if len(ranges) == 2:
            raise ConnectionResetError
        data = real(self, path, start=start, end=end, **options)
        return data[:-1] if len(ranges) == 4 else data  # a body that was cut

    monkeypatch.setattr(MemoryFileSystem, "cat_file", cat_file)
    assert uris(f"memory:/{prefix}/m.jsonl") == [f"memory:/{prefix}/{name}" for name in names]
    assert max(ranges) <= 8 << 20
    assert len(ranges) >= 5
    assert len(clock.slept) == 2


@pytest.mark.parametrize("suffix", ["parquet", "csv", "csv.gz", "jsonl"])
def test_an_outage_while_reading_is_one_of_the_storage(remote, monkeypatch, clock, suffix):
    filesystem, prefix = remote
    filesystem.pipe(f"{prefix}/m.{suffix}", encoded({"uri": ["a"]}, suffix))

    def cat_file(self, path, start=None, end=None, **options):
        raise ConnectionResetError

    monkeypatch.setattr(MemoryFileSystem, "cat_file", cat_file)
    with pytest.raises(StorageUnavailableError, match="did not answer for 120 s"):
        read(f"memory:/{prefix}/m.{suffix}")


def test_local_names_are_those_of_a_listing(tmp_path):
    path = write(tmp_path / "m.parquet", {"uri": ["x/../a b.jpg", f"{tmp_path}//c.jpg"]})
    unstrip = LocalFileSystem().unstrip_protocol
    assert uris(path) == [unstrip(tmp_path / "a b.jpg"), unstrip(tmp_path / "c.jpg")]


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl.gz"])
def test_a_lack_of_memory_is_no_fault_of_the_list(tmp_path, monkeypatch, suffix):
    def exhausted(*_):
        raise MemoryError("malloc of size 256 failed")

    path = write(tmp_path / f"list.{suffix}", {"uri": ["a.jpg"]})
    monkeypatch.setattr(NamedUris, "table", exhausted)
    with pytest.raises(MemoryError):
        read(path)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("name", ["m.csv", "m.tsv", "m.csv.gz"])
def test_line_breaks_in_values_are_read_and_told(tmp_path, caplog, end, name):
    delimiter = "\t" if ".tsv" in name else ","
    rows = [("uri", "note"), ("a.jpg", "x"), ("b.jpg", f'"two{end}lines"'), ("c.jpg", f'"{end}"'), ("d.jpg", "y")]
    content = "".join(delimiter.join(row) + end for row in rows).encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    assert len(uris(tmp_path / name)) == 4
    assert [message.partition(";")[0] for message in caplog.messages] == [
        "values of 2 rows hold line breaks, such as row 1 (from 0)"
    ]


def test_a_stray_quote_that_takes_in_rows_of_a_column_that_is_not_read_is_told(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(manifest_rows, "_BLOCK_BYTES", 100)
    lines = [f"{number:02}.jpg,caption" for number in range(30)]
    lines[20], lines[22] = '20.jpg,"5 inches', '22.jpg,"big" one'
    (tmp_path / "m.csv").write_text("uri,caption\n" + "\n".join(lines) + "\n")
    assert len(uris(tmp_path / "m.csv")) == 28
    assert caplog.messages == [
        "values of 1 rows hold line breaks, such as row 20 (from 0); an open quote does that too, and then images are "
        "missing"
    ]


@pytest.mark.parametrize("end", ["", "\n", "\n\n"])
@pytest.mark.parametrize(
    "last",
    ['b.jpg,"open\nc.jpg,x', f'b.jpg,"open\n{"c.jpg," * 500}', 'b.jpg,"open\nc.jpg,""x""', '"b.jpg\nc.jpg'],
    ids=["last column", "long", "quotes in it", "only column"],
)
def test_a_list_that_ends_within_quotes_is_refused(tmp_path, last, end):
    first = "uri,note\na.jpg,x\n" if "," in last else "uri\na.jpg\n"
    (tmp_path / "m.csv").write_text(first + last + end)
    with pytest.raises(InputError, match=r"the last value of row 1 \(from 0\) begins with a quote that nothing closes"):
        read(tmp_path / "m.csv")


@pytest.mark.parametrize("number", [3, 120_000])
def test_a_quote_that_nothing_closes_in_the_middle_of_a_long_list_is_refused(tmp_path, number):
    lines = [f"{number:020},{number:020}.jpg" for number in range(150_000)]
    lines[number] = lines[number].replace(",", ',"')
    (tmp_path / "m.csv").write_text("\n".join(["label,uri", *lines]))
    with pytest.raises(InputError, match=r"nothing closes.* takes in all lines below"):
        read(tmp_path / "m.csv")


@pytest.mark.parametrize("end", ["", "\n", "\n\n"])
@pytest.mark.parametrize("note", ['"two\nlines"', '"two\n""lines"""', '"two\n"', '"two\nlines" more', '""', "x"])
def test_a_last_value_may_hold_line_breaks_and_quotes(tmp_path, note, end):
    (tmp_path / "m.csv").write_text(f"uri,note\na.jpg,x\nb.jpg,{note}{end}")
    assert len(uris(tmp_path / "m.csv")) == 2
    (tmp_path / "m.csv").write_text(f"note,uri\nx,a.jpg\n{note},b.jpg{end}")
    assert len(uris(tmp_path / "m.csv")) == 2
