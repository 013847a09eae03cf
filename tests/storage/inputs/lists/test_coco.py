import gzip
import json

import pyarrow as pa
import pytest

from sam_pipeline.config import InputConfig
from sam_pipeline.errors import InputError
from sam_pipeline.storage.inputs.lists import coco
from sam_pipeline.storage.inputs.lists.coco import coco_images
from sam_pipeline.storage.inputs.source_object import SOURCE_SCHEMA, SourceOptions

URL = "http://images.cocodataset.org/val2017/000000000139.jpg"


@pytest.fixture
def read(tmp_path):
    def read(images, **options):
        path = tmp_path / "instances.json"
        content = images if isinstance(images, bytes) else json.dumps({"images": images, "annotations": []}).encode()
        path.write_bytes(content)
        tables = list(coco_images(str(path), SourceOptions({}, InputConfig(**options))))
        assert all(table.schema == SOURCE_SCHEMA for table in tables)
        return pa.concat_tables(tables).to_pylist()

    return read


def test_images_are_the_files_named_beside_the_annotations(read, tmp_path):
    rows = read([{"id": 7, "file_name": "b.jpg", "width": 3, "height": 2}, {"id": 5, "file_name": "sub/a.jpg"}])
    nothing = {"size_bytes": None, "etag": None, "location": None, "error": None}
    assert rows == [
        {"uri": f"file://{tmp_path}/b.jpg", "extra": '{"coco_image_id": 7}', **nothing},
        {"uri": f"file://{tmp_path}/sub/a.jpg", "extra": '{"coco_image_id": 5}', **nothing},
    ]


def test_images_are_below_the_image_root(read):
    (row,) = read([{"id": 1, "file_name": "a.jpg"}], image_root="s3://bucket/val2017/")
    assert row["uri"] == "s3://bucket/val2017/a.jpg"


@pytest.mark.parametrize(
    ("options", "uses_url"),
    [
        ({}, False),
        ({"allow_http": True}, True),
        ({"image_root": "s3://bucket"}, False),
        ({"image_root": "s3://bucket", "allow_http": True}, False),
    ],
)
def test_the_url_is_used_where_http_is_allowed_and_no_root_says_where_the_files_are(read, options, uses_url):
    with_url, without = read(
        [{"id": 1, "file_name": "a.jpg", "coco_url": URL}, {"id": 2, "file_name": "b.jpg", "coco_url": ""}], **options
    )
    assert (with_url["uri"] == URL) is uses_url
    assert uses_url or with_url["uri"].endswith("/a.jpg")
    assert without["uri"].endswith("/b.jpg")
    assert with_url["error"] is without["error"] is None


def test_an_image_may_have_a_url_alone(read):
    images = [{"id": 1, "coco_url": URL}]
    assert read(images, allow_http=True)[0]["uri"] == URL
    assert "null, empty or not text" in read(images)[0]["error"]


def test_fields_are_kept_beside_the_id(read):
    rows = read(
        [{"id": "x", "file_name": "a.jpg", "license": 4, "tags": ["é"]}, {"id": 2, "file_name": "b.jpg"}],
        keep=("license", "tags"),
    )
    assert [json.loads(row["extra"]) for row in rows] == [
        {"coco_image_id": "x", "license": 4, "tags": ["é"]},
        {"coco_image_id": 2, "license": None, "tags": None},
    ]


def test_a_field_that_no_image_has_is_an_input_error(read):
    with pytest.raises(InputError, match=r"no image in .* has a field 'licence'; their fields: 'id', 'file_name'"):
        read([{"id": 1, "file_name": "a.jpg"}], keep=("licence",))


def test_an_id_may_be_written_as_a_float(read):
    first, again = read([{"id": 1.0, "file_name": "a.jpg"}, {"id": 1, "file_name": "b.jpg"}])
    assert (first["extra"], first["error"]) == ('{"coco_image_id": 1}', None)
    assert "id of an earlier one" in again["error"]


def test_names_follow_the_same_rules_as_in_a_manifest(read):
    names = ["ftp://host/a", "s3://b/a?X-Amz-Signature=canary", "zip://a::s3://b/c", "https://h/a.jpg"]
    rows = read([{"id": number, "file_name": name} for number, name in enumerate(names)])
    for number, (row, error) in enumerate(zip(rows, ["ftp", "presigned", "chained", "--allow-http"], strict=True)):
        assert error in row["error"]
        assert row["uri"].endswith(f"instances.json#row-{number}")
        assert row["extra"] == f'{{"coco_image_id": {number}}}'
    assert "canary" not in json.dumps(rows)


def test_a_bad_entry_is_a_row_with_an_error(read, tmp_path, monkeypatch):
    monkeypatch.setattr(coco, "_TABLE_ROWS", 3)
    rows = read(
        [
            {"id": 1, "file_name": "a.jpg"},
            {"id": 2},
            {"file_name": "c.jpg"},
            {"id": 1, "file_name": "d.jpg"},
            "text",
            {"id": True, "file_name": "f.jpg"},
            {"id": 3, "file_name": "g.jpg"},
        ]
    )
    errors = [None, "null, empty", "no id", "id of an earlier one", "not an object", "no id", None]
    for number, (row, error) in enumerate(zip(rows, errors, strict=True)):
        if error is None:
            assert row["error"] is None
        else:
            assert error in row["error"]
            assert row["uri"] == f"file://{tmp_path}/instances.json#row-{number}"


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b'{"images": [', "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "has no list `images`"),
        (b'{"annotations": [], "info": 1}', "has no list `images`; its fields: 'annotations', 'info'$"),
        (b'{"images": {}}', "has no list `images`"),
        (b'["a.jpg", "b.jpg"]', r"is a list of text; .* one a line into a \.txt file"),
        (b'[{"image_id": 1, "bbox": [1, 2, 3, 4]}]', "holds results; give it with --prompts"),
        (b'[{"path": "a.jpg"}]', r"is a list of objects; .* into a \.jsonl file"),
        (b'{"path": "a.jpg"}\n{"path": "b.jpg"}\n', r"holds JSON Lines: call it \.jsonl"),
        (b'{"images": []}', "list of images is empty"),
    ],
)
def test_other_files_are_input_errors_of_one_line(read, content, error):
    with pytest.raises(InputError, match=error) as caught:
        read(content)
    assert "\n" not in str(caught.value)


def test_an_annotation_file_may_be_gzipped(tmp_path):
    path = tmp_path / "instances.json.gz"
    path.write_bytes(gzip.compress(b'{"images": [{"id": 1, "file_name": "a.jpg"}]}'))
    (table,) = coco_images(str(path), SourceOptions({}))
    assert table["uri"].to_pylist() == [f"file://{tmp_path}/a.jpg"]


def test_what_is_not_there_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="input not found"):
        next(coco_images(str(tmp_path / "none.json"), SourceOptions({})))
