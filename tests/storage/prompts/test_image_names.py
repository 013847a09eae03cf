import gzip
import json
import logging

import pyarrow as pa
import pytest

from sam_pipeline.errors import InputError
from sam_pipeline.storage.prompts.image_names import read_image_names, with_image_names
from sam_pipeline.storage.prompts.prompt_rows import KEYED_PROMPTS


def names_of(folder, images, name="instances.json"):
    data = json.dumps({"images": images, "annotations": []}).encode()
    (folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return read_image_names(str(folder / name), {})


def keyed(*rows):
    return pa.Table.from_pylist(
        [{"key": key, "is_image_id": is_id, "prompt_id": 0, "is_relative": False} for key, is_id in rows],
        schema=KEYED_PROMPTS,
    )


@pytest.mark.parametrize("name", ["instances.json", "instances.json.gz"])
def test_ids_become_names_and_names_stay(tmp_path, name):
    images = [{"id": 7, "file_name": "a.jpg"}, {"id": "x", "file_name": "b.jpg"}, {"id": 9.0, "file_name": "c.jpg"}]
    names = names_of(tmp_path, images, name)
    rows = keyed(("7", True), ("7", False), ("x", True), ("9", True), (None, True), ("d.jpg", False))
    named = with_image_names(rows, names)
    assert named.schema == rows.schema
    assert named["key"].to_pylist() == ["a.jpg", "7", "b.jpg", "c.jpg", None, "d.jpg"]
    assert not any(named["is_image_id"].to_pylist())


def test_an_id_without_a_name_names_nothing_and_is_counted(tmp_path, caplog):
    names = names_of(tmp_path, [{"id": 7, "file_name": "a.jpg"}])
    with caplog.at_level(logging.WARNING):
        named = with_image_names(keyed(("8", True), ("7", True), ("9", True), (None, True)), names)
    assert named["key"].to_pylist() == [None, "a.jpg", None, None]
    assert "2 rows have an image_id without a name, such as 8, and are left out" in caplog.text


def test_entries_that_are_none_are_passed_over_and_the_first_of_an_id_counts(tmp_path):
    images = [None, 7, {"id": True, "file_name": "a"}, {"id": 1}, {"id": 1, "file_name": "b"}]
    assert names_of(tmp_path, [*images, {"id": 1, "file_name": "c"}]).to_pylist() == [{"id": "1", "file_name": "b"}]


@pytest.mark.parametrize("content", ["[]", "{}", '{"images": {}}', '{"images": [{"id": 1}]}', '"text"'])
def test_a_file_without_names_is_refused(tmp_path, content):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(InputError, match=r"no image in .*a\.json has an id and a file_name"):
        read_image_names(str(tmp_path / "a.json"), {})


def test_half_a_surrogate_pair_in_a_name_or_an_id_is_passed_over(tmp_path):
    images = [{"id": 1, "file_name": "\ud800.png"}, {"id": "\ud800", "file_name": "a.png"}]
    names = names_of(tmp_path, [*images, {"id": 2, "file_name": "b.png"}])
    assert names.to_pylist() == [{"id": "2", "file_name": "b.png"}]
