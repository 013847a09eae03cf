import csv
import io
import json

import pytest

from sam_pipeline.evaluation.files import csv_text, json_text
from tests.evaluation.compared import annotation, coco_file, compare, prompted, rectangle, stored

LEFT, RIGHT = rectangle(10, 10, 20, 20), rectangle(90, 10, 20, 20)


@pytest.fixture
def evaluation(tmp_path):
    truth = coco_file([[annotation(LEFT), annotation(RIGHT)], []])
    return compare(tmp_path, [[stored(LEFT)], [stored(LEFT)]], truth, iou=("mask", "box"))


def test_a_line_for_each_image(evaluation):
    first, second = csv.DictReader(io.StringIO(csv_text(evaluation)))
    assert first == {
        "image_id": "0",
        "ground_truth_id": "11",
        "uri": "file:///in/0000.jpg",
        "status": "ok",
        "num_masks": "1",
        "num_objects": "2",
        **{f"{kind}_{name}": "0.5" for kind in ("mask", "box") for name in ("mean_best_iou", "recall_50", "recall_75")},
    }
    assert (second["num_objects"], second["mask_mean_best_iou"], second["box_recall_50"]) == ("0", "", "")


def test_all_figures_as_json(evaluation):
    found = json.loads(json_text(evaluation))
    assert found["figures"]["mask"]["AR@1"] == 0.5
    assert found["figures"]["box"]["AP_large"] is None
    assert found["counts"]["images"] == 2
    assert found["counts"]["objects"] == 2
    assert found["ap_max_dets"] == 100
    assert [each["uri"] for each in found["worst_images"]] == ["file:///in/0000.jpg"]


def test_figures_of_each_category(tmp_path):
    truth = coco_file([[annotation(LEFT, 1), annotation(RIGHT, 2)]], ("cat", "dog", "cow"))
    masks = [[prompted(LEFT, category_id=1), prompted(LEFT, category_id=2)]]
    found = compare(tmp_path, masks, truth, iou=("mask",))
    assert [(each["id"], each["name"], each["mask_AP"]) for each in found.by_category] == [(1, "cat", 1), (2, "dog", 0)]
    assert found.figures["mask"]["AP"] == 0.5
