"""COCO files, as pycocotools reads them."""

import json
import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from sam_pipeline.errors import ConfigError
from sam_pipeline.exports.texts.json_text import json_numbers, json_objects, json_strings, lines
from tests.exports.masks import all_shapes, prompted, row, shapes, stored
from tests.exports.pictures import in_folder, picture, run_of
from tests.storage.runs import failed_row

NAMES = {"categories": [{"id": 0, "name": "cat"}, {"id": 7, "name": "dög", "supercategory": "animal"}]}


@pytest.fixture
def categories(tmp_path):
    path = tmp_path / "categories.json"
    path.write_text(json.dumps(NAMES))
    return str(path)


def pixels_of(annotation):
    return coco_mask.decode(annotation["segmentation"]).astype(bool)


def test_every_mask_is_read_back_as_it_is(exported, every_shape):
    folder, summary = exported(every_shape, "coco")
    read = COCO(folder / "annotations.json")
    expected = list(shapes().values()) + list(shapes().values())[:2]
    annotations = [read.anns[number] for number in sorted(read.anns)]
    assert all(np.array_equal(pixels_of(each), mask) for each, mask in zip(annotations, expected, strict=True))
    assert (summary.num_images, summary.num_masks) == (3, len(expected))
    assert summary.images_left_out == {"decode_error": 1}


def test_ids_begin_at_one_and_never_repeat_over_the_images(exported, every_shape):
    folder, _ = exported(every_shape, "coco")
    content = json.loads((folder / "annotations.json").read_text())
    assert [image["id"] for image in content["images"]] == [1, 2, 4]
    assert [each["id"] for each in content["annotations"]] == list(range(1, len(shapes()) + 3))
    assert [category["id"] for category in content["categories"]] == [1]
    assert {each["image_id"] for each in content["annotations"]} == {1, 4}


def test_images_without_masks_stay_unless_they_are_not_wanted(exported, every_shape):
    folder, _ = exported(every_shape, "coco")
    assert {"id": 2, "file_name": "0001.jpg", "width": 131, "height": 97} in COCO(folder / "annotations.json").dataset[
        "images"
    ]
    folder, summary = exported(every_shape, "coco", "no-empty", keep_empty=False)
    assert [image["id"] for image in COCO(folder / "annotations.json").dataset["images"]] == [1, 4]
    assert summary.images_left_out == {"decode_error": 1, "without masks": 1}


def test_boxes_and_areas_count_pixels_and_no_mask_is_a_crowd(exported, every_shape):
    folder, _ = exported(every_shape, "coco")
    for each in COCO(folder / "annotations.json").dataset["annotations"]:
        rle = each["segmentation"]
        assert each["bbox"] == coco_mask.toBbox(rle).tolist()
        assert each["area"] == coco_mask.area(rle)
        assert each["iscrowd"] == 0
        assert isinstance(rle["counts"], str)
        assert sum(coco_mask.decode(rle).shape) == sum(rle["size"])


def test_boxes_of_prompts_are_written_where_they_are_asked_for(exported):
    disc = shapes()["disc"]
    rows = [row(0, [stored(disc), prompted(disc, None)])]
    folder, _ = exported(rows, "coco", bbox="prompt")
    boxes = [each["bbox"] for each in json.loads((folder / "annotations.json").read_text())["annotations"]]
    assert boxes == [[25, 15, 51, 51], [24.5, 14.5, 52, 52]]


def test_categories_have_the_names_of_the_file_and_ids_from_one(exported, categories):
    masks = [prompted(pixels, number) for pixels, number in zip(shapes().values(), (0, 7, 7, None), strict=False)]
    folder, _ = exported([row(0, masks)], "coco", categories=categories)
    read = COCO(folder / "annotations.json")
    assert read.loadCats(read.getCatIds()) == [
        {"id": 1, "name": "cat", "supercategory": ""},
        {"id": 8, "name": "dög", "supercategory": "animal"},
        {"id": 9, "name": "object", "supercategory": ""},
    ]
    assert [each["category_id"] for each in read.dataset["annotations"]] == [1, 8, 8, 9]


def test_masks_of_the_grid_are_of_the_category_object_alone(exported, tmp_path):
    """Neither names that lie beside the images nor masks that are not exported count."""
    run = run_of(tmp_path, {"0.jpg": picture(0)}, masks=[[stored(shapes()["disc"]), prompted(shapes()["disc"], 7)]])
    (tmp_path / "in" / "data.yaml").write_text("names: [cat, dog]")
    with pytest.raises(ConfigError, match="category 7 has no name"):
        exported(run, "coco")
    folder, _ = exported(run, "coco", selection={"source": "grid"})
    read = COCO(folder / "annotations.json")
    assert read.dataset["categories"] == [{"id": 1, "name": "object", "supercategory": ""}]
    assert [each["category_id"] for each in read.dataset["annotations"]] == [1]
    names = str(tmp_path / "in" / "data.yaml")
    folder, _ = exported(run, "coco", "named", categories=names, selection={"source": "grid"})
    categories = COCO(folder / "annotations.json").dataset["categories"]
    assert [each["name"] for each in categories] == ["cat", "dog", "object"]


def test_results_of_the_grid_have_no_category_of_the_file_that_they_lie_beside(exported, tmp_path):
    images = [{"id": 42, "file_name": "0.jpg"}]
    content = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "cat"}]}

    def in_coco(place, files):
        (in_folder(place, files) / "instances.json").write_text(json.dumps(content))
        return place / "in" / "instances.json"

    run = run_of(tmp_path, {"0.jpg": picture(0)}, in_coco, masks=[[stored(shapes()["disc"])]])
    folder, _ = exported(run, "coco-results", selection={"source": "grid"})
    (found,) = json.loads((folder / "results.json").read_text())
    assert (found["image_id"], found["category_id"]) == (42, 2)


def test_scores_that_are_no_numbers_are_left_out(exported):
    values = [math.nan, math.inf, -math.inf, None, 0.25]
    masks = [prompted(shapes()["disc"], None, value, stability_score=value) for value in values]
    folder, _ = exported([row(0, masks)], "coco")
    text = (folder / "annotations.json").read_text()
    read = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))["annotations"]
    assert ["score" in each for each in read] == ["stability_score" in each for each in read] == [False] * 4 + [True]
    assert (read[4]["score"], read[4]["stability_score"]) == (0.25, 0.25)


HOSTILE = [
    "file:///in/<script>alert(1)</script>.jpg",
    'file:///in/a "quoted" \\ name.jpg',
    "file:///in/line\nbreak\x1b[31m.jpg",
    "file:///in/../../etc/passwd.jpg",
    "file:///in//double.jpg",
    "file:///in/%2E%2E/encoded.jpg",
    "file:///in/a/same.jpg",
    "file:///in/b/same.jpg",
    "file:///in/b/same.png",
    "file:///in/a.tar#b/c.jpg",
    "file:///in/train.parquet#000000001",
    "file:///in/photo#1.jpg",
    "file:///in/ünïcödé 図.jpg",
]


def test_names_are_relative_safe_and_distinct(exported):
    rows = [row(number, [], uri=uri) for number, uri in enumerate(HOSTILE)]
    folder, _ = exported(rows, "coco")
    names = [image["file_name"] for image in COCO(folder / "annotations.json").dataset["images"]]
    assert names == [
        "<script>alert(1)</script>.jpg",
        'a "quoted" %5C name.jpg',
        "line%0Abreak%1B[31m.jpg",
        "%2E%2E/%2E%2E/etc/passwd.jpg",
        "%2F/double.jpg",
        "%252E%252E/encoded.jpg",
        "a/same.jpg",
        "b/same.jpg",
        "b/same.png",
        "a.tar/b/c.jpg",
        "train.parquet/000000001",
        "photo#1.jpg",
        "ünïcödé 図.jpg",
    ]


@given(st.lists(st.text(), min_size=1, max_size=5), st.data())
def test_objects_made_of_columns_are_json(texts, data):
    numbers = data.draw(st.lists(st.floats() | st.none(), min_size=len(texts), max_size=len(texts)))
    import pyarrow as pa

    values = pa.array(numbers, pa.float64())
    columns = {"name": json_strings(texts), 'a "key"': json_numbers(values), "fixed": ["0"]}
    written = lines(json_objects(columns, {"optional": values}))
    read = json.loads(b"[" + written + b"]", parse_constant=lambda word: pytest.fail(word))
    assert [each["name"] for each in read] == texts
    finite = [None if number is None or not math.isfinite(number) else number for number in numbers]
    assert [each['a "key"'] for each in read] == [each.get("optional") for each in read] == finite


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=15, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=1, max_size=4, unique=True))
def test_any_names_make_a_file_that_is_read(tmp_path_factory, names):
    from sam_pipeline.exports.names import Names

    found = Names("file:///in/").file_names([f"file:///in/{name}" for name in names])
    assert len(set(found)) == len(names)
    for name in found:
        assert json.loads(json.dumps(name)) == name
        parts = name.split("/")
        assert not {"", ".", ".."} & set(parts)
        assert not any(ord(character) < 32 or 127 <= ord(character) < 160 for character in name)


def test_a_run_with_failures_alone_is_a_valid_file_without_images(exported):
    for sharded in ({}, {"shard_images": 5}, {"split": 0.5}):
        folder, summary = exported([failed_row(0), failed_row(1, "too_large")], "coco", f"out{sharded}", **sharded)
        for path in folder.glob("*.json"):
            read = COCO(path)
            assert read.dataset["images"] == read.dataset["annotations"] == []
        assert len(list(folder.glob("*.json"))) == (2 if "split" in sharded else 1)
        assert (summary.num_images, summary.num_masks) == (0, 0)
        assert summary.images_left_out == {"decode_error": 1, "too_large": 1}


def test_shards_hold_so_many_images_and_continue_the_ids(exported, make_run):
    run = make_run([row(number, all_shapes()[: number % 4]) for number in range(11)])
    whole, _ = exported(run, "coco", "whole")
    sharded, _ = exported(run, "coco", "sharded", shard_images=4)
    paths = sorted(sharded.glob("*.json"))
    assert [path.name for path in paths] == [f"annotations-{number:06}.json" for number in range(3)]
    parts = [COCO(path).dataset for path in paths]
    assert [len(part["images"]) for part in parts] == [4, 4, 3]
    one = COCO(whole / "annotations.json").dataset
    for kind in ("images", "annotations"):
        assert [each for part in parts for each in part[kind]] == one[kind]


def test_a_split_has_every_image_once_in_the_share_that_was_asked_for(exported, make_run):
    run = make_run([row(number, all_shapes()[:2]) for number in range(40)] + [failed_row(40 + n) for n in range(9)])
    folder, _ = exported(run, "coco", split=0.9, seed=3)
    train, val = (COCO(folder / name).dataset for name in ("train.json", "val.json"))
    assert (len(train["images"]), len(val["images"])) == (36, 4)
    ids = [image["id"] for part in (train, val) for image in part["images"]]
    assert sorted(ids) == list(range(1, 41))
    annotation_ids = [each["id"] for part in (train, val) for each in part["annotations"]]
    assert sorted(annotation_ids) == list(range(1, 81))
    again, _ = exported(run, "coco", "again", split=0.9, seed=3)
    other, _ = exported(run, "coco", "other", split=0.9, seed=4)
    few, _ = exported(run, "coco", "few", split=0.5, selection={"include": ["000?.jpg"]})
    assert [len(COCO(few / name).imgs) for name in ("train.json", "val.json")] == [5, 5]
    assert (again / "val.json").read_text() == (folder / "val.json").read_text()
    assert (other / "val.json").read_text() != (folder / "val.json").read_text()


def test_only_chosen_masks_are_written_and_the_others_are_counted(exported):
    masks = [
        stored(pixels, predicted_iou=iou) for pixels, iou in zip(shapes().values(), (0.9, 0.95, 0.97), strict=False)
    ]
    folder, summary = exported(
        [row(0, masks), row(1, masks[:1])], "coco", selection={"pred_iou_thresh": 0.92, "exclude": ["0001.jpg"]}
    )
    assert len(COCO(folder / "annotations.json").anns) == 2
    assert summary.masks_left_out == {"pred_iou_thresh": 1}
    assert summary.images_left_out == {"not selected": 1}


def test_results_are_loaded_beside_an_export_and_evaluate_to_one(exported, make_run):
    run = make_run([row(0, [prompted(pixels, None, 0.5) for pixels in shapes().values()]), row(1, all_shapes()[:3])])
    truth, _ = exported(run, "coco", "truth")
    results, _ = exported(run, "coco-results", "results")
    truth = COCO(truth / "annotations.json")
    found = truth.loadRes(str(results / "results.json"))
    assert len(found.anns) == len(truth.anns)
    for one, other in zip(found.dataset["annotations"], truth.dataset["annotations"], strict=True):
        assert one["area"] == other["area"]
        assert np.array_equal(pixels_of(one), pixels_of(other))
    scores = [each["score"] for each in found.dataset["annotations"]]
    assert scores == pytest.approx([0.5] * len(shapes()) + [0.9] * 3)
    evaluation = COCOeval(truth, found, "segm")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1)


def test_results_have_the_ids_of_the_coco_file_that_the_images_came_from(exported, tmp_path):
    (tmp_path / "names.txt").write_text("cat\ndog\n")  # 0 and 1
    masks = [prompted(shapes()["disc"], 0), prompted(shapes()["disc"], 1), stored(shapes()["disc"])]
    ids = [42, "42", 10**20, 'a"\\']
    rows = [row(number, masks, extra=json.dumps({"coco_image_id": each})) for number, each in enumerate(ids)]
    folder, _ = exported(rows, "coco-results", categories=str(tmp_path / "names.txt"))
    found = json.loads((folder / "results.json").read_text())
    assert [each["image_id"] for each in found] == [each for each in ids for _ in masks]
    assert [each["category_id"] for each in found] == [0, 1, 2] * len(ids)
    folder, _ = exported([failed_row(0)], "coco-results", "nothing")
    assert json.loads((folder / "results.json").read_text()) == []


def test_results_do_not_mix_ids_of_a_coco_file_with_those_of_the_export(exported, make_run, tmp_path):
    run = make_run([row(0, all_shapes()[:1], extra='{"coco_image_id": 2}'), row(1, all_shapes()[:1]), failed_row(2)])
    with pytest.raises(ConfigError, match="1 of 2 images have an id of a COCO file"):
        exported(run, "coco-results")
    assert not (tmp_path / "export").exists()
    folder, _ = exported(run, "coco-results", selection={"exclude": ["0001.jpg"]})
    assert [each["image_id"] for each in json.loads((folder / "results.json").read_text())] == [2]


@pytest.mark.parametrize(("parts", "whole"), [("bridge", True), ("split", True), ("largest", False)])
def test_polygons_are_drawn_again_as_the_masks(exported, every_shape, parts, whole):
    folder, summary = exported(every_shape, "coco", segmentation="polygon", parts=parts)
    read = COCO(folder / "annotations.json")
    ious = []
    for each, pixels in zip(
        read.dataset["annotations"], [*shapes().values(), *list(shapes().values())[:2]], strict=True
    ):
        assert all(len(polygon) >= 6 and len(polygon) % 2 == 0 for polygon in each["segmentation"])
        assert parts == "split" or len(each["segmentation"]) == 1
        drawn = read.annToMask(each).astype(bool)
        ious.append((drawn & pixels).sum() / (drawn | pixels).sum())
        assert each["area"] == pixels.sum()
    assert (min(ious) == 1) == whole
    assert summary.loss.num_masks == len(ious)
    assert summary.loss.mean() == pytest.approx(np.mean(ious))


@pytest.mark.parametrize("segmentation", ["rle", "polygon"])
def test_detectron2_keeps_every_mask_by_its_rules(exported, every_shape, segmentation):
    folder, summary = exported(every_shape, "coco", segmentation=segmentation)
    read = COCO(folder / "annotations.json")
    annotations = [each for image_id in sorted(read.imgs) for each in read.imgToAnns[image_id]]
    # What its load_coco_json asserts, or leaves out without a word.
    assert len({each["id"] for each in annotations}) == len(annotations) == summary.num_masks
    for each in annotations:
        assert each.get("ignore", 0) == 0
        assert each["iscrowd"] == 0
        assert each["category_id"] in read.cats
        shape = each["segmentation"]
        if isinstance(shape, list):
            assert shape == [polygon for polygon in shape if len(polygon) % 2 == 0 and len(polygon) >= 6] != []
        else:
            assert not isinstance(shape["counts"], list)
        x, y, w, h = each["bbox"]
        image = read.imgs[each["image_id"]]
        assert 0 <= x < x + w <= image["width"]
        assert 0 <= y < y + h <= image["height"]
