import json
import os

import pyarrow as pa
import pytest

from sam_pipeline.storage.inputs import reading as containers
from sam_pipeline.storage.inputs.lists.coco import coco_images
from sam_pipeline.storage.inputs.lists.manifest import manifest_images
from sam_pipeline.storage.inputs.name_forms import one_form, other_forms
from sam_pipeline.storage.inputs.reading import fetch_images
from sam_pipeline.storage.inputs.source_object import SourceObject, SourceOptions, object_of_row

NFC, NFD = "caf\u00e9", "cafe\u0301"


def test_names_that_mean_the_same_have_one_form():
    names = [NFC, NFD, "caf%C3%A9", None, "a\\b", "a/b", "100%", "%zz"]
    assert one_form(pa.array(names, pa.large_string())).to_pylist() == [NFC] * 3 + [None, "a/b", "a/b", "100%", "%zz"]


@pytest.mark.parametrize("uri", ["s3://b/a.jpg", "file:///d/with space.jpg", "s3://b/100%.jpg", "file:///d/\u65e5.jpg"])
def test_most_names_have_no_other_form(uri):
    assert list(other_forms(uri)) == []


@pytest.mark.parametrize(
    "name", ["..%2F..%2Fetc", "a\\..\\..\\etc", "%2e%2e/x", "a%00b", "a%2F%2Fb", "\\etc", "%2Fetc", "x\\.\\y"]
)
def test_no_form_leaves_the_place_that_a_list_may_name(name):
    assert list(other_forms(f"file:///data/{name}")) in ([], [f"file:///data/{name.replace('%2F', '/')}"])
    assert not any(".." in form or "\0" in form or "//" in form[8:] for form in other_forms(f"s3://b/{name}"))


LISTED = {
    f"{NFC}.jpg": f"{NFD}.jpg",
    f"{NFD} 2.jpg": f"{NFC} 2.jpg",
    "a%20b.jpg": "a b.jpg",
    "train\\1.jpg": "train/1.jpg",
    f"tr%C3%A4in\\{NFC}.jpg": f"tr\u00e4in/{NFC}.jpg",
    "as it is%20.jpg": "as it is%20.jpg",
    "gone%20.jpg": None,
}


def read(images, options=None):
    return [data if isinstance(data, bytes) else type(data) for data in fetch_images(images, options or {}, None)]


@pytest.mark.parametrize("kind", ["csv", "coco"])
def test_what_a_list_names_in_another_form_is_read(tmp_path, kind):
    for name in filter(None, LISTED.values()):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(os.fsencode(name))
    (tmp_path / "as it is .jpg").write_bytes(b"another")
    if kind == "csv":
        (tmp_path / "list.csv").write_text("path\n" + "\n".join(LISTED) + "\n")
        (table,) = manifest_images(str(tmp_path / "list.csv"), SourceOptions({}))
    else:
        images = [{"id": number, "file_name": name} for number, name in enumerate(LISTED)]
        (tmp_path / "coco.json").write_text(json.dumps({"images": images}))
        (table,) = coco_images(str(tmp_path / "coco.json"), SourceOptions({}))
    found = read([object_of_row(row) for row in table.to_pylist()])
    assert found == [FileNotFoundError if name is None else os.fsencode(name) for name in LISTED.values()]


def test_only_what_is_not_there_is_asked_for_again(tmp_path, monkeypatch):
    asked = []
    real_fetch = containers.fetch
    monkeypatch.setattr(
        containers,
        "fetch",
        lambda images, *rest, **limits: (
            asked.extend(image.uri for image in images) or real_fetch(images, *rest, **limits)
        ),
    )
    for name in (f"{NFC}.jpg", "a.jpg"):
        (tmp_path / name).write_bytes(b"x")
    listed = [SourceObject(f"file://{tmp_path}/{name}", None, None) for name in (f"{NFC}.jpg", "a.jpg", "b.jpg")]
    gone = SourceObject(f"file://{tmp_path}/{NFD}.jpg", 1, None)
    assert read([*listed, gone]) == [b"x", b"x", FileNotFoundError, FileNotFoundError]
    assert asked == [image.uri for image in (*listed, gone)]


@pytest.mark.s3
def test_a_store_is_asked_for_other_forms_of_what_it_has_not(s3, monkeypatch):
    for name, value in s3.env.items():
        monkeypatch.setenv(name, value)
    bucket = s3.create_bucket()
    for name in ("a b.jpg", f"{NFD}.jpg", "train/1.jpg"):
        s3.put(bucket, name, name.encode())
    listed = ["a%20b.jpg", f"{NFC}.jpg", "train\\1.jpg", "gone%20.jpg"]
    found = read([SourceObject(f"s3://{bucket}/{name}", None, None) for name in listed])
    assert found == [b"a b.jpg", f"{NFD}.jpg".encode(), b"train/1.jpg", FileNotFoundError]
