"""Files of SA-1B, against its description: NAME.json beside NAME.jpg."""

import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from tests.exports.masks import prompted, row, shapes, stored


def test_a_file_of_an_image_has_the_fields_of_sa1b(exported, every_shape):
    folder, _ = exported(every_shape, "sa1b")
    assert sorted(path.name for path in folder.glob("*.json")) == ["0000.json", "0001.json", "0003.json"]
    content = json.loads((folder / "0000.json").read_text())
    assert content["image"] == {"image_id": 1, "file_name": "0000.jpg", "width": 131, "height": 97}
    assert len(content["annotations"]) == len(shapes())
    for number, (each, pixels) in enumerate(zip(content["annotations"], shapes().values(), strict=True)):
        assert list(each) == [
            "id",
            "segmentation",
            "bbox",
            "area",
            "predicted_iou",
            "stability_score",
            "crop_box",
            "point_coords",
        ]
        assert np.array_equal(coco_mask.decode(each["segmentation"]), pixels)
        assert (each["id"], each["area"]) == (number + 1, pixels.sum())
        assert each["bbox"] == coco_mask.toBbox(each["segmentation"]).tolist()
        assert each["crop_box"] == [0, 0, 131, 97]
        assert each["point_coords"] == [[each["bbox"][0] + 0.5, each["bbox"][1] + 0.25]]
        assert each["predicted_iou"] == pytest.approx(0.9)
    assert json.loads((folder / "0001.json").read_text())["annotations"] == []
    assert [each["id"] for each in json.loads((folder / "0003.json").read_text())["annotations"]] == [13, 14]


def test_masks_of_boxes_have_no_points_and_others_any_number(exported):
    disc = shapes()["disc"]
    points = [[1.5, 2.0], [3.0, 4.25]]
    rows = [row(0, [prompted(disc, None), stored(disc, point_coords=points), stored(disc)]), row(1, [stored(disc)])]
    folder, _ = exported(rows, "sa1b")
    found = [each["point_coords"] for each in json.loads((folder / "0000.json").read_text())["annotations"]]
    assert found == [[], points, [[25.5, 15.25]]]


def test_images_whose_names_differ_in_the_suffix_alone_have_files_of_their_own(exported):
    names = ["a.jpg", "a.png", "a.png.json", "b/a.jpg", "b.v2/c"]
    rows = [row(number, [], uri=f"file:///in/{name}") for number, name in enumerate(names)]
    folder, _ = exported(rows, "sa1b")
    files = {
        json.loads(path.read_text())["image"]["file_name"]: str(path.relative_to(folder))
        for path in folder.rglob("*.json")
        if not path.is_relative_to(folder / ".sam-pipeline-export")
    }
    assert files == {
        "a.jpg": "a.jpg.json",
        "a.png": "a.png~1.json",
        "a.png.json": "a.png.json",
        "b/a.jpg": "b/a.json",
        "b.v2/c": "b.v2/c.json",
    }


def test_names_that_no_disk_takes_are_shortened_and_stay_distinct(exported):
    names = ["x" * 900 + f"/{'図' * 300}{number}.jpg" for number in range(2)] + ["y" * 255]
    rows = [row(number, [], uri=f"s3://bucket/{name}") for number, name in enumerate(names)]
    folder, _ = exported(rows, "sa1b", keep_empty=True)
    written = [path for path in folder.rglob("*.json") if ".sam-pipeline-export" not in path.parts]
    read = [json.loads(path.read_text())["image"]["file_name"] for path in sorted(written)]
    assert len(read) == len(set(read)) == 3
    assert sorted(name[-5:] for name in read) == ["0.jpg", "1.jpg", "yyyyy"]
