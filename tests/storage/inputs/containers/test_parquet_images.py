import json
import uuid
from datetime import date, datetime
from functools import partial

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sam_pipeline.config import InputConfig
from sam_pipeline.errors import InputError, StorageUnavailableError
from sam_pipeline.storage.inputs.containers import parquet_images as planning
from sam_pipeline.storage.inputs.containers.parquet_images import is_parquet_of_images, parquet_images
from sam_pipeline.storage.inputs.containers.parquet_reading import read_parquet_rows
from sam_pipeline.storage.inputs.source_object import (
    SOURCE_SCHEMA,
    Location,
    SourceObject,
    SourceOptions,
    object_of_row,
)
from sam_pipeline.storage.objects.retrying import retried
from tests.storage.image_files import noise, saved
from tests.storage.inputs.parquet_files import data_of, hugging_face, read, write

OPTIONS = SourceOptions({})


def images_in(containers, options=OPTIONS):
    tables = list(parquet_images(containers, options))
    assert all(table.schema == SOURCE_SCHEMA for table in tables)
    return [object_of_row(row) for table in tables for row in table.to_pylist()]


@pytest.mark.parametrize(
    ("columns", "column", "expected"),
    [
        ({"image": pa.array([b"x"])}, None, True),
        ({"image": pa.array([b"x"], pa.large_binary()), "caption": ["a"]}, None, True),
        ({"image": hugging_face([{"bytes": b"x", "path": None}]), "label": [1]}, None, True),
        ({"uri": ["s3://b/a.jpg"], "width": [7]}, None, False),
        ({"uri": ["s3://b/a.jpg"], "digest": pa.array([b"abc"], pa.binary(3))}, None, False),
        ({"point": [{"x": 1.0}]}, None, False),
        ({"uri": ["s3://b/a.jpg"], "thumbnail": pa.array([b"x"])}, "uri", False),
        ({"uri": ["s3://b/a.jpg"], "thumbnail": pa.array([b"x"])}, "thumbnail", True),
    ],
)
def test_the_columns_tell_a_file_of_images_from_a_list_of_uris(tmp_path, columns, column, expected):
    container = write(tmp_path / "a.parquet", columns)
    assert is_parquet_of_images(container.uri, SourceOptions({}, InputConfig(input_column=column))) is expected


def test_what_is_no_parquet_or_is_not_there_has_no_columns(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"no footer")
    with pytest.raises(InputError, match=r"cannot read .*a\.parquet"):
        is_parquet_of_images(str(tmp_path / "a.parquet"), OPTIONS)
    with pytest.raises(InputError, match=r"input not found: .*b\.parquet"):
        is_parquet_of_images(str(tmp_path / "b.parquet"), OPTIONS)


def test_a_row_is_an_image_and_no_bytes_are_read(tmp_path, monkeypatch):
    container = write(tmp_path / "a.parquet", {"image": pa.array([data_of(row) for row in range(3)])})
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", None)
    monkeypatch.setattr(pq.ParquetFile, "read_row_group", None)
    assert images_in([container]) == [
        SourceObject(f"{container.uri}#{row:09}", None, "v1", Location(container.uri, "parquet", row, None, "image"))
        for row in range(3)
    ]


def test_the_order_of_the_uris_is_that_of_the_rows(tmp_path):
    container = write(tmp_path / "a.parquet", {"image": pa.array([b"x"] * 101)})
    uris = [image.uri for image in images_in([container])]
    assert uris == sorted(uris)
    assert (uris[7], uris[100]) == (f"{container.uri}#000000007", f"{container.uri}#000000100")


def test_many_rows_come_in_parts_that_go_on_counting(tmp_path, monkeypatch):
    monkeypatch.setattr(planning, "_ROWS_AT_ONCE", 4)
    columns = {"image": pa.array([b"x", None, *[b"x"] * 5, None, None, b"x"]), "n": list(range(10))}
    container = write(tmp_path / "a.parquet", columns, row_group_size=3)
    tables = list(parquet_images([container], SourceOptions({}, InputConfig(keep=("n",)))))
    assert [table.num_rows for table in tables] == [4, 4, 2]
    images = [object_of_row(row) for table in tables for row in table.to_pylist()]
    assert [image.location.offset for image in images] == list(range(10))
    assert [json.loads(image.extra)["n"] for image in images] == list(range(10))


def test_row_groups_of_nulls_are_found_in_planning(tmp_path, monkeypatch):
    monkeypatch.setattr(planning, "_ROWS_AT_ONCE", 3)
    values = pa.array([b"x", b"x", None, None, None, None, b"x", None], pa.binary())
    container = write(tmp_path / "a.parquet", {"image": values}, row_group_size=2)
    error = "the image is null"
    assert [image.error for image in images_in([container])] == [None, None, error, error, error, error, None, None]


def test_without_statistics_nulls_are_left_to_the_reader(tmp_path):
    container = write(tmp_path / "a.parquet", {"image": pa.array([None, None], pa.binary())}, write_statistics=False)
    assert [image.error for image in images_in([container])] == [None, None]
    assert [str(error) for error in read(container, "image", [0, 1]).values()] == ["the image is null"] * 2


def test_images_outside_of_the_file_are_told_from_nulls(tmp_path):
    values = [None, {"bytes": None, "path": "a.jpg"}, {"bytes": None, "path": None}, {"bytes": b"x", "path": "b.jpg"}]
    outside = "the row names an image outside of the Parquet file, which is not supported"
    expected = ["the image is null", outside, "the image is null"]
    container = write(tmp_path / "a.parquet", {"image": hugging_face(values)}, row_group_size=3)
    assert [image.error for image in images_in([container])] == [*expected, None]
    container = write(tmp_path / "b.parquet", {"image": hugging_face(values)})
    found = read(container, "image.bytes", [0, 1, 2, 3])
    assert [str(found[row]) for row in range(3)] == expected
    assert found[3] == b"x"


@pytest.mark.parametrize("name", ["image", "img", "bytes", "jpg", "png", "content"])
def test_of_several_columns_of_bytes_one_of_a_usual_name_is_taken(tmp_path, name):
    container = write(tmp_path / "a.parquet", {"mask": [b"m"], name: [b"x"]})
    assert images_in([container])[0].location.column == name


def test_of_several_columns_of_bytes_the_one_that_begins_as_images_do_is_taken(tmp_path):
    png = saved(noise(4, 5), "PNG")
    columns = {"hash": pa.array([bytes(20)] * 3), "photo": pa.array([None, png, png]), "label": [1, 2, 3]}
    assert images_in([write(tmp_path / "a.parquet", columns)])[0].location.column == "photo"
    columns["preview"] = columns["photo"]
    with pytest.raises(InputError, match="3 of its columns hold bytes; say which is of images with --input-column"):
        images_in([write(tmp_path / "b.parquet", columns)])


def test_a_column_that_is_asked_for_is_taken(tmp_path):
    container = write(tmp_path / "a.parquet", {"image": [b"x"], "depth": hugging_face([{"bytes": b"d", "path": ""}])})
    (image,) = images_in([container], SourceOptions({}, InputConfig(input_column="depth")))
    assert image.location.column == "depth.bytes"


@pytest.mark.parametrize(
    ("columns", "column", "message"),
    [
        ({"mask": [b"m"], "left": [b"x"]}, None, r"2 of its columns hold bytes; .* mask \(binary\), left \(binary\)"),
        ({"image": [b"m"], "img": [b"x"]}, None, r"2 of its columns hold bytes; .*--input-column"),
        ({"uri": ["a"]}, None, r"none of its columns holds bytes; .* uri \(string\)"),
        ({"image": [b"x"]}, "picture", r"no column 'picture': there are image \(binary\)"),
        ({"image": [b"x"], "uri": ["a"]}, "uri", r"no bytes in column 'uri': there are image"),
    ],
)
def test_a_column_that_cannot_be_told_is_an_input_error_that_names_them(tmp_path, columns, column, message):
    container = write(tmp_path / "a.parquet", columns)
    with pytest.raises(InputError, match=message):
        images_in([container], SourceOptions({}, InputConfig(input_column=column)))


def test_kept_columns_become_one_json_object_an_image(tmp_path):
    columns = {
        "image": [b"x", b"y"],
        "label": pa.array([3, None]),
        "day": [date(2024, 2, 3)] * 2,
        "when": [datetime(2024, 2, 3, 4, 5, 6)] * 2,
        "caption": ['a "quoted" é', "b"],
        "tags": [["a", "b"], []],
        "meta": [{"x": 1}, None],
    }
    container = write(tmp_path / "a.parquet", columns)
    # Not in the order of the file.
    keep = ("tags", "label", "day", "when", "caption", "meta")
    first, second = (
        json.loads(image.extra) for image in images_in([container], SourceOptions({}, InputConfig(keep=keep)))
    )
    assert list(first) == list(keep)
    assert first["caption"] == 'a "quoted" é'
    assert (first["label"], second["label"]) == (3, None)
    assert (first["tags"], first["meta"], first["day"]) == (["a", "b"], {"x": 1}, "2024-02-03")
    assert first["when"].startswith("2024-02-03T04:05:06")


@pytest.mark.parametrize("name", ["image", "depth", "frames"])
def test_bytes_are_not_kept(tmp_path, name):
    columns = {"image": [b"x"], "depth": hugging_face([{"bytes": b"d", "path": ""}]), "frames": [[b"x"]]}
    containers = [write(tmp_path / "a.parquet", {"image": [b"x"]}), write(tmp_path / "b.parquet", columns)]
    with pytest.raises(InputError, match=f"column '{name}' cannot be kept"):
        images_in(containers, SourceOptions({}, InputConfig(input_column="image", keep=(name,))))


def test_only_kept_columns_are_read(tmp_path, monkeypatch):
    container = write(tmp_path / "a.parquet", {"image": [b"x"], "label": [1], "other": [2]})
    real = pq.ParquetFile.iter_batches

    def iter_batches(self, *arguments, columns, **options):
        assert columns == ["label"]
        return real(self, *arguments, columns=columns, **options)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", iter_batches)
    assert images_in([container], SourceOptions({}, InputConfig(keep=("label",))))[0].extra == '{"label": 1}'


def test_files_that_cannot_be_used_are_one_row_each_and_others_go_on(tmp_path):
    damaged = tmp_path / "damaged.parquet"
    damaged.write_bytes(b"PAR1 this is not all of it")
    containers = [
        SourceObject(str(damaged), 5, "v0"),
        write(tmp_path / "good.parquet", {"image": [b"x", b"y"], "label": [1, 2]}),
        write(tmp_path / "other.parquet", {"uri": ["a"], "label": [1]}),
        write(tmp_path / "bare.parquet", {"image": [b"x"]}),
        SourceObject(str(tmp_path / "gone.parquet"), 5, None),
    ]
    images = images_in(containers, SourceOptions({}, InputConfig(keep=("label",))))
    assert [(image.uri, image.location is None) for image in images] == [
        (f"{tmp_path}/damaged.parquet#", True),
        (f"{tmp_path}/good.parquet#000000000", False),
        (f"{tmp_path}/good.parquet#000000001", False),
        (f"{tmp_path}/other.parquet#", True),
        (f"{tmp_path}/bare.parquet#", True),
        (f"{tmp_path}/gone.parquet#", True),
    ]
    errors = [image.error for image in images]
    assert errors[0]
    assert errors[1:3] == [None, None]
    assert errors[3].startswith("none of its columns holds bytes")
    assert errors[4].startswith("no column 'label' to keep: there are image (binary)")
    assert "gone.parquet" in errors[5]
    assert [image.etag for image in images] == ["v0", "v1", "v1", "v1", "v1", None]


def test_no_usable_file_is_an_input_error_and_no_rows_are_not(tmp_path):
    containers = [write(tmp_path / f"{name}.parquet", {"uri": ["a"]}) for name in "ab"]
    with pytest.raises(InputError, match=r"a\.parquet: none of its columns holds bytes.* for all 2 files"):
        images_in(containers)
    assert images_in([write(tmp_path / "empty.parquet", {"image": pa.array([], pa.binary())})]) == []
    assert images_in([]) == []


def test_files_come_in_their_order_and_few_are_held(tmp_path, monkeypatch):
    container = write(tmp_path / "a.parquet", {"image": [b"x"]})
    asked_for = []

    def containers():
        for number in range(50):
            asked_for.append(number)
            yield SourceObject(container.uri, None, str(number))

    tables = parquet_images(containers(), OPTIONS)
    assert next(tables)["etag"].to_pylist() == ["0"]
    assert len(asked_for) <= 9
    assert [table["etag"][0].as_py() for table in tables] == [str(number) for number in range(1, 50)]


def test_a_footer_is_asked_for_again_and_an_outage_ends_planning(tmp_path, monkeypatch, clock):
    container = write(tmp_path / "a.parquet", {"image": [b"x"]})
    real, failures = planning.open_parquet, [TimeoutError("no answer")] * 2

    def open_parquet(uri, options):
        if failures:
            raise failures.pop()
        return real(uri, options)

    monkeypatch.setattr(planning, "open_parquet", open_parquet)
    assert len(images_in([container])) == 1
    assert is_parquet_of_images(container.uri, OPTIONS)
    failures.extend([TimeoutError("no answer")] * 10)
    monkeypatch.setattr(planning, "retried", partial(retried, limit_s=0))
    with pytest.raises(StorageUnavailableError):
        images_in([container])


def test_remote_files_are_planned_and_read(tmp_path):
    filesystem = fsspec.filesystem("memory")
    uri = f"memory:///bucket-{uuid.uuid4()}/a.parquet"
    write(tmp_path / "a.parquet", {"image": [data_of(row) for row in range(10)]})
    filesystem.pipe(uri, (tmp_path / "a.parquet").read_bytes())
    try:
        assert is_parquet_of_images(uri, OPTIONS)
        (image, *_) = images_in([SourceObject(uri, None, None)])
        assert image == SourceObject(f"{uri}#000000000", None, None, Location(uri, "parquet", 0, None, "image"))
        assert list(read_parquet_rows(uri, "image", [3], {})) == [(3, data_of(3))]
    finally:
        filesystem.rm(uri)
