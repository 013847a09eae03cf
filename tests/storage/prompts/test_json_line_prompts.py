import gzip
import json

import pytest

from sam_pipeline.errors import InputError
from sam_pipeline.storage.inputs.lists import manifest_rows
from tests.storage.prompts.reading import read_rows

LINE = b'{"image": "a.jpg", "bbox": [1, 2, 3, 4]}\n'


@pytest.mark.parametrize("name", ["p.jsonl", "p.NDJSON", "p.jsonl.gz", "p.ndjson.GZ"])
def test_blank_lines_are_not_counted(tmp_path, name):
    content = b"\xef\xbb\xbf\n" + LINE + b"\r\n\n" + LINE.rstrip()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.lower().endswith("gz") else content)
    assert [(row["key"], row["prompt_id"]) for row in read_rows(tmp_path / name)] == [("a.jpg", 0), ("a.jpg", 1)]


def test_rows_are_numbered_through_all_blocks_and_the_first_tells_the_columns(tmp_path, monkeypatch):
    monkeypatch.setattr(manifest_rows, "_BLOCK_BYTES", 100)
    lines = [{"path": f"{number}.jpg", "bbox": [number, 0, 1, 1]} for number in range(20)]
    lines[15]["image"] = "other.jpg"
    del lines[16]["path"]
    lines[17]["path"] = 17
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows = read_rows(tmp_path / "p.jsonl")
    assert [row["prompt_id"] for row in rows] == list(range(20))
    assert [row["box_xyxy"][0] for row in rows] == list(range(20))
    assert [row["key"] for row in rows[14:18]] == ["14.jpg", "15.jpg", None, "17"]


@pytest.mark.parametrize(("line", "number"), [(b"[1]\n", 3), (b"{\n", 3), (b"\xff\n", 3), (b'{"a": 1} {}\n', 3)])
def test_a_line_that_is_no_object_is_named_with_its_file(tmp_path, line, number):
    (tmp_path / "p.jsonl").write_bytes(LINE + b"\n" + line + LINE)
    with pytest.raises(InputError, match=rf"^cannot read {tmp_path}/p.jsonl: line {number} is not a JSON object$"):
        read_rows(tmp_path / "p.jsonl")


def test_lines_are_counted_through_all_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(manifest_rows, "_BLOCK_BYTES", 2 * len(LINE))
    (tmp_path / "p.jsonl").write_bytes(LINE * 8 + b"7\n" + LINE)
    with pytest.raises(InputError, match="line 9 is not a JSON object"):
        read_rows(tmp_path / "p.jsonl")


def test_a_file_cut_short_is_an_input_error(tmp_path):
    (tmp_path / "p.jsonl.gz").write_bytes(gzip.compress(LINE * 100)[:-10])
    with pytest.raises(InputError, match=r"cannot read .*p\.jsonl\.gz"):
        read_rows(tmp_path / "p.jsonl.gz")


def test_each_row_names_its_image_by_the_first_value_that_can(tmp_path):
    rows = [
        {"image": {"width": 5}, "image_id": 7},
        {"url": None, "file_name": "a.jpg", "image_id": 8},
        {"key": 9.0},
        {"image_id": 10},
        {"file_name": 1.5, "image_id": True},
    ]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row | {"bbox": [1, 2, 3, 4]}) + "\n" for row in rows))
    read = [(row["key"], row["is_image_id"]) for row in read_rows(tmp_path / "p.jsonl")]
    assert read == [("7", True), ("a.jpg", False), ("9", False), ("10", True), (None, False)]
