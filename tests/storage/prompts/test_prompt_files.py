"""Prompt files of every kind: what they say, what is wrong with single prompts, and what is wrong with a whole file."""

import gzip
import json
import logging

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sam_pipeline.errors import InputError
from sam_pipeline.storage.prompts import json_line_prompts, parquet_prompts
from sam_pipeline.storage.prompts.prompt_files import list_prompt_files, read_prompts, read_regions
from sam_pipeline.storage.prompts.prompt_rows import KEYED_PROMPTS, PromptOptions
from tests.storage.prompts.reading import prompt_options

BOX = [1, 2, 3, 4]


def rows_of(path, read=read_prompts, **options):
    parts = list(read(str(path), prompt_options(path, **options)))
    assert all(part.schema == KEYED_PROMPTS for part in parts)
    return [
        {name: value for name, value in row.items() if value is not None} for row in pa.concat_tables(parts).to_pylist()
    ]


def row(key, prompt_id, *, is_relative=False, is_image_id=False, **fields):
    return {"key": key, "is_image_id": is_image_id, "prompt_id": prompt_id, "is_relative": is_relative, **fields}


@pytest.fixture
def json_file(tmp_path):
    def write(content, name="prompts.json"):
        (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
        return tmp_path / name

    return write


@pytest.fixture(params=["Parquet", "JSON Lines", "JSON Lines, compressed"])
def table_file(request, tmp_path):
    """Write rows in each of the formats with columns."""

    def write(*rows):
        if request.param == "Parquet":
            names = dict.fromkeys(name for row in rows for name in row)
            columns = {name: [row.get(name) for row in rows] for name in names}
            pq.write_table(pa.table(columns), tmp_path / "prompts.parquet")
            return tmp_path / "prompts.parquet"
        lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
        if request.param == "JSON Lines":
            (tmp_path / "prompts.jsonl").write_bytes(lines)
            return tmp_path / "prompts.jsonl"
        (tmp_path / "prompts.ndjson.gz").write_bytes(gzip.compress(lines))
        return tmp_path / "prompts.ndjson.gz"

    return write


def test_results_of_a_detector_in_cocos_format(json_file):
    results = [
        {"image_id": 42, "category_id": 18, "bbox": [258.2, 41.3, 348.3, 243.8], "score": 0.236},
        {"image_id": "a.jpg", "category_id": 1, "bbox": BOX, "score": 1},
    ]
    assert rows_of(json_file(results)) == [
        row("42", 0, is_image_id=True, category_id=18, score=0.236, box_xyxy=[258.2, 41.3, 606.5, 285.1]),
        row("a.jpg", 1, is_image_id=True, category_id=1, score=1.0, box_xyxy=[1, 2, 4, 6]),
    ]


def test_annotations_have_ids_and_images_have_names(json_file):
    images = [{"id": 1, "file_name": "train/a.jpg"}, {"id": "x", "file_name": "b.jpg"}]
    annotations = [
        {"id": 900, "image_id": "x", "bbox": BOX, "category_id": 3},
        {"id": "no number", "image_id": 1, "bbox": BOX},
        {"id": 901, "image_id": 7, "bbox": BOX},
    ]
    path = json_file({"images": images, "annotations": annotations})
    found = rows_of(path)
    assert [(each["key"], each["prompt_id"]) for each in found] == [("b.jpg", 900), ("train/a.jpg", 1), ("7", 901)]
    assert [each["is_image_id"] for each in found] == [False, False, True]
    # Of two images one may have the other's name, but none has its id.
    found = rows_of(path, planned_from=str(path))
    assert [(each["key"], each["is_image_id"]) for each in found] == [("x", True), ("1", True), ("7", True)]


def test_an_image_is_called_by_its_name_before_its_number(table_file):
    named = {"image_id": 7, "file_name": "a.jpg", "bbox": BOX}
    assert rows_of(table_file(named)) == [row("a.jpg", 0, box_xyxy=[1, 2, 4, 6])]
    numbered = {"image_id": 7, "bbox": BOX}
    assert rows_of(table_file(numbered)) == [row("7", 0, is_image_id=True, box_xyxy=[1, 2, 4, 6])]
    pointed = {"image_id": 7, "point_coords": [[1.0, 2.0]]}
    (found,) = rows_of(table_file(pointed))
    assert found["is_image_id"]


def test_columns_of_boxes_points_and_labels(table_file):
    found = rows_of(
        table_file(
            {"image": "a.jpg", "bbox": [1.0, 2.0, 3.0, 4.0], "score": 0.5, "category_id": 3, "other": "x"},
            {"image": "b.jpg", "point_coords": [[5.0, 6.0], [7.0, 8.5]], "point_labels": [1, 0]},
            {"image": "b.jpg", "point_coords": [[5.0, 6.0]]},
            {"image": "c.jpg", "bbox": [0.0, 0.0, 9.0, 9.0], "point_coords": [[5.0, 6.0]], "point_labels": [0]},
        )
    )
    assert found == [
        row("a.jpg", 0, category_id=3, score=0.5, box_xyxy=[1, 2, 4, 6]),
        row("b.jpg", 1, point_coords=[[5, 6], [7, 8.5]], point_labels=[1, 0]),
        row("b.jpg", 2, point_coords=[[5, 6]], point_labels=[1]),
        row("c.jpg", 3, box_xyxy=[0, 0, 9, 9], point_coords=[[5, 6]], point_labels=[0]),
    ]


def test_boxes_alone_and_corners(table_file):
    rows = [{"uri": f"s3://b/{index}.jpg", "bbox": [1, 2, 30 + index, 40], "score": index / 8} for index in range(5)]
    found = rows_of(table_file(*rows), bbox_format="xyxy")
    assert found == [
        row(f"s3://b/{index}.jpg", index, score=index / 8, box_xyxy=[1, 2, 30 + index, 40]) for index in range(5)
    ]


def test_a_mask_of_an_earlier_prediction(table_file):
    logits = np.random.default_rng(0).normal(size=(256, 256)).astype("<f4")
    nested = logits.astype(float).tolist()
    (first, second) = rows_of(table_file({"key": "a", "mask_input": nested}, {"key": "b", "mask_input": nested}))
    assert first == row("a", 0, mask_input=logits.tobytes())
    assert second["mask_input"] == first["mask_input"]


def test_a_mask_in_bytes(tmp_path):
    logits = np.random.default_rng(0).normal(size=(256, 256)).astype("<f4")
    table = pa.table({"key": ["a", "b"], "mask_input": pa.array([logits.tobytes(), b"short"], pa.binary())})
    pq.write_table(table, tmp_path / "p.parquet")
    first, second = rows_of(tmp_path / "p.parquet")
    assert first["mask_input"] == logits.tobytes()
    assert second["error"] == "mask_input must be 256x256 numbers"


WRONG = [
    ({"bbox": [1, 2, 3]}, "bbox must be 4 numbers, has 3"),
    ({"bbox": []}, "bbox must be 4 numbers, has 0"),
    ({"bbox": "1 2 3 4"}, "bbox must be 4 numbers"),
    ({"bbox": [1, 2, 3, "4"]}, "bbox must be 4 numbers"),
    ({"bbox": [1, 2, 3, None]}, "bbox must be 4 numbers"),
    ({"bbox": [1, 2, 3, True]}, "bbox must be 4 numbers"),
    ({"bbox": [1, 2, 3, 10**400]}, "bbox must be 4 numbers"),
    ({"bbox": [1, 2, 3, float("inf")]}, "bbox holds a number that is not finite"),
    ({"bbox": [float("nan"), 2, 3, 4]}, "bbox holds a number that is not finite"),
    ({"bbox": {"x": 1}}, "bbox must be 4 numbers"),
    ({"point_coords": []}, "a prompt needs a bbox, point_coords or a mask_input"),
    ({"point_coords": [1, 2]}, "point_coords must be [[x, y], …]"),
    ({"point_coords": [[1, 2, 3]]}, "point_coords must be [[x, y], …]"),
    ({"point_coords": [[1, float("nan")]]}, "point_coords holds a number that is not finite"),
    ({"point_coords": [[1, 2]], "point_labels": [1, 0]}, "1 points come with 2 labels"),
    ({"point_coords": [[1, 2]], "point_labels": [2]}, "point_labels must be 1"),
    ({"bbox": BOX, "point_labels": [1]}, "0 points come with 1 labels"),
    ({"mask_input": [[1.0]]}, "mask_input must be 256x256 numbers"),
    ({"mask_input": "x"}, "mask_input must be 256x256 numbers"),
    ({}, "a prompt needs a bbox, point_coords or a mask_input"),
    ({"bbox": None}, "a prompt needs a bbox, point_coords or a mask_input"),
]


@pytest.mark.parametrize(("fields", "error"), WRONG)
def test_a_prompt_that_is_wrong_says_why_and_the_others_go_on(json_file, fields, error):
    results = [{"image_id": 1, "bbox": BOX}, {"image_id": 2, "category_id": 5, "score": 0.5, **fields}]
    lines = "".join(json.dumps(result) + "\n" for result in results)
    for path in (json_file(results), json_file(lines, "prompts.jsonl")):
        right, wrong = rows_of(path)
        assert right == row("1", 0, is_image_id=True, box_xyxy=[1, 2, 4, 6])
        assert wrong.pop("error").startswith(error)
        assert wrong == row("2", 1, is_image_id=True, category_id=5, score=0.5)


def test_wrong_prompts_in_parquet_do_not_spoil_the_others(tmp_path):
    boxes = [[1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0], None, [1.0, float("nan"), 3.0, 4.0], [0.0, None, 1.0, 1.0]]
    scores = [0.5, float("nan"), 0.5, None, 0.25]
    columns = {"image_id": [1, 2, 3, 4, None], "bbox": boxes, "score": scores, "category_id": [1, 2, 3, 4, None]}
    pq.write_table(pa.table(columns), tmp_path / "p.parquet")
    found = rows_of(tmp_path / "p.parquet")
    assert found[0] == row("1", 0, is_image_id=True, category_id=1, score=0.5, box_xyxy=[1, 2, 4, 6])
    assert [each.get("key") for each in found] == ["1", "2", "3", "4", None]
    assert [each.get("error", "").split(",")[0] for each in found[1:]] == [
        "bbox must be 4 numbers",
        "a prompt needs a bbox",
        "bbox holds a number that is not finite",
        "bbox must be 4 numbers",
    ]
    assert "score" not in found[1]


@pytest.mark.parametrize("key", [None, 1.5, True, [], {"a": 1}, "\ud800"])
def test_what_names_no_image_is_kept_without_a_name(json_file, key):
    (found,) = rows_of(json_file([{"image_id": key, "bbox": BOX}]))
    assert found == {"is_image_id": True, "prompt_id": 0, "is_relative": False, "box_xyxy": [1, 2, 4, 6]}


def test_entries_that_are_no_objects_are_rows_too(json_file):
    found = rows_of(json_file([7, None, {"image_id": 1, "bbox": BOX}]))
    assert [each.get("error", "")[:14] for each in found] == ["a prompt needs", "a prompt needs", ""]


def test_prompts_below_a_score_are_left_out_and_counted(table_file, caplog):
    rows = [{"key": "a", "bbox": [1.0, 2.0, 3.0, 4.0], "score": score} for score in (0.1, 0.5, None, 0.9)]
    with caplog.at_level(logging.INFO):
        found = rows_of(table_file(*rows), min_score=0.5)
    assert [each["prompt_id"] for each in found] == [1, 3], "they keep their numbers"
    assert "2 prompts have a score below 0.5, or none, and are left out" in caplog.text


def test_a_score_that_cannot_be_read_is_not_left_out_with_the_low_ones(json_file):
    scores = ["0.9", "0.1", "high", 0.7, None]
    found = rows_of(json_file([{"image_id": 1, "bbox": BOX, "score": score} for score in scores]), min_score=0.5)
    assert [(each["prompt_id"], each.get("score")) for each in found] == [(0, 0.9), (2, None), (3, 0.7)]
    assert found[1]["error"] == "score must be a number, is 'high'"


def test_a_least_score_where_there_are_none_is_an_error(json_file):
    with pytest.raises(InputError, match=r"min_score needs scores, .*prompts.json has none"):
        rows_of(json_file([{"image_id": 1, "bbox": BOX}]), min_score=0.5)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.json", "{", "not JSON"),
        ("p.json", "7", "neither COCO results"),
        ("p.json", '{"images": []}', "neither COCO results"),
        ("p.json", "[]", "no prompts in"),
        ("p.jsonl", "", "no prompts in"),
        ("p.jsonl", '{"image": "a", "bbox": [1, 2, 3, 4]}\n7\n', "line 2 is not a JSON object"),
        ("p.jsonl", '{"picture": "a", "bbox": [1, 2, 3, 4]}\n', "names the image, .*its columns: 'picture', 'bbox'"),
        ("p.jsonl", '{"image": "a", "box": [1, 2, 3, 4]}\n', "none of the columns bbox, point_coords, mask_input"),
        ("p.jsonl.gz", "no gzip", "cannot read"),
        ("p.parquet", "no Parquet", "cannot read"),
        ("p.xml", "<a/>", "cannot tell what kind of prompts"),
    ],
)
def test_a_file_that_is_no_list_of_prompts_is_one_clear_line(json_file, name, content, message):
    with pytest.raises(InputError, match=message) as error:
        rows_of(json_file(content, name))
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there(tmp_path):
    for name in ("gone.json", "gone.jsonl", "gone.parquet", "gone"):
        with pytest.raises(InputError, match="not found"):
            rows_of(tmp_path / name)


@pytest.fixture(params=["disk", "memory"])
def labels(request, tmp_path):
    """A folder of YOLO labels."""
    files = {
        "train/0001.txt": "3 0.5 0.5 0.25 0.5\n\n7 0.1 0.2 0.1 0.1 0.75\n",
        "train/0002.txt": "",
        "0003.txt": "1 0.5 0.5\nx 0.5 0.5 0.5 0.5\n1 0.5 0.5 nan 0.5\n1 1 1 1 1 1 1 1\n2 0.5 0.5 1 1\n",
        "classes.txt": "dog\ncat\n",
        "notes.md": "no labels",
    }
    if request.param == "disk":
        for name, content in files.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(content)
        return str(tmp_path)
    memory = fsspec.filesystem("memory")
    for name, content in files.items():
        memory.pipe_file(f"/{tmp_path.name}/labels/{name}", content.encode())
    return f"memory://{tmp_path.name}/labels"


def test_labels_of_yolo_are_shares_of_the_images_size(labels):
    found = rows_of(labels)
    right = [each for each in found if "error" not in each]
    assert right == [
        row("0003", 4, category_id=2, box_xyxy=[0, 0, 1, 1], is_relative=True),
        row("train/0001", 0, category_id=3, box_xyxy=[0.375, 0.25, 0.625, 0.75], is_relative=True),
        row(
            "train/0001",
            2,
            category_id=7,
            score=0.75,
            box_xyxy=pytest.approx([0.05, 0.15, 0.15, 0.25]),
            is_relative=True,
        ),
    ]
    wrong = [each for each in found if "error" in each]
    assert [(each["key"], each["prompt_id"]) for each in wrong] == [("0003", index) for index in range(4)]
    assert all(each["error"].startswith("the line must be class cx cy w h [confidence] [track]; ") for each in wrong)
    assert len(list_prompt_files(labels, {})) == 4, "also files that hold no prompts may change"


def test_several_files_that_are_no_labels_are_refused(tmp_path):
    for name in ("a.json", "b.json"):
        (tmp_path / name).write_text("[]")
    with pytest.raises(InputError, match=r"one file, or a folder of YOLO labels: .*\*\.json names 2 files"):
        list_prompt_files(f"{tmp_path}/*.json", {})
    with pytest.raises(InputError, match=r"no YOLO labels in .*: 2 files, none ending in one of \.txt"):
        list_prompt_files(str(tmp_path), {})


def test_one_file_of_labels(tmp_path):
    (tmp_path / "0001.txt").write_text("3 0.5 0.5 1 1\n")
    assert [each["key"] for each in rows_of(tmp_path / "0001.txt")] == ["0001"]


def test_regions_are_polygons_or_boxes(table_file):
    found = rows_of(
        table_file(
            {"image": "a.jpg", "polygon": [[0.0, 0.0], [5.0, 0.0], [5.0, 5.0]]},
            {"image": "b.jpg", "bbox": [1.0, 2.0, 3.0, 4.0]},
            {"image": "c.jpg", "polygon": [[0.0, 0.0], [5.0, 0.0]]},
            {"image": "d.jpg"},
        ),
        read_regions,
    )
    assert found[:2] == [
        row("a.jpg", 0, polygon=[[0, 0], [5, 0], [5, 5]]),
        row("b.jpg", 1, box_xyxy=[1, 2, 4, 6]),
    ]
    assert [each["error"] for each in found[2:]] == [
        "polygon must be [[x, y], …], 3 of them or more",
        "a region needs a polygon or a bbox",
    ]


def test_regions_of_a_coco_file_are_its_segmentations(json_file):
    annotations = [
        {"id": 5, "image_id": 1, "segmentation": [[0, 0, 5, 0, 5, 5], [9, 9, 8, 9, 8, 8]], "bbox": BOX},
        {"id": 6, "image_id": 1, "segmentation": {"counts": "x", "size": [1, 1]}, "bbox": BOX},
        {"id": 7, "image_id": 1, "segmentation": [[0, 0, 5]]},
    ]
    found = rows_of(json_file({"annotations": annotations}), read_regions)
    assert found[:3] == [
        row("1", 5, is_image_id=True, polygon=[[0, 0], [5, 0], [5, 5]]),
        row("1", 5, is_image_id=True, polygon=[[9, 9], [8, 9], [8, 8]]),
        row("1", 6, is_image_id=True, box_xyxy=[1, 2, 4, 6]),
    ]
    assert "polygon must be" in found[3]["error"]


def test_boxes_in_parquet_are_read_without_python_objects(tmp_path, monkeypatch):
    count = 200_000
    boxes = pa.FixedSizeListArray.from_arrays(np.random.default_rng(0).uniform(0, 9, 4 * count), 4)
    keys = pa.array(np.arange(count)).cast(pa.string())
    pq.write_table(pa.table({"image": keys, "bbox": boxes, "score": np.ones(count)}), tmp_path / "p.parquet")
    monkeypatch.setattr("sam_pipeline.storage.prompts.prompt_files.prompt_row", lambda *_, **__: 1 / 0)
    parts = list(read_prompts(str(tmp_path / "p.parquet"), PromptOptions({})))
    assert sum(part.num_rows for part in parts) == count
    assert max(part.num_rows for part in parts) <= 65_536
    last = parts[-1].slice(parts[-1].num_rows - 1).to_pylist()[0]
    assert (last["prompt_id"], last["key"]) == (count - 1, str(count - 1))


@pytest.mark.parametrize(
    ("module", "function", "suffix"),
    [
        (parquet_prompts, "column_batches", "parquet"),
        (json_line_prompts, "records_of_lines", "jsonl"),
        (json, "loads", "json"),
    ],
)
def test_a_lack_of_memory_is_no_fault_of_the_file(tmp_path, monkeypatch, module, function, suffix):
    def exhausted(*_, **__):
        raise MemoryError("malloc of size 256 failed")

    path = tmp_path / f"prompts.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.table({"image": ["a"], "bbox": [[1.0, 2.0, 3.0, 4.0]]}), path)
    else:
        path.write_text('{"image": "a", "bbox": [1, 2, 3, 4]}')
    monkeypatch.setattr(module, function, exhausted)
    with pytest.raises(MemoryError):
        rows_of(path)
