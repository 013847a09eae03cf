"""Targets of a detector against pycocotools and against the pixels that were stored."""

import json

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from sam_pipeline.errors import ConfigError, InputError
from sam_pipeline.masks.runs import rle
from sam_pipeline.masks.runs.runs import Runs
from sam_pipeline.results.results import Results
from sam_pipeline.results.selection.mask_selection import MaskSelection
from sam_pipeline.storage.inputs.source_object import SourceObject, source_table
from sam_pipeline.storage.tables.plan import write_plan
from sam_pipeline.torch.targets import detection_target, read_labels
from tests.end_to_end.pictures import HEIGHT, WIDTH
from tests.results.picture_runs import blob
from tests.storage.runs import FINGERPRINT, mask, row, shard, take_over

SIZE = (HEIGHT, WIDTH)


def encoded(pixels):
    return {"segmentation": rle.encode(Runs.of_mask(pixels)), "category_id": None}


def test_a_target_has_the_types_that_torchvision_asks_for():
    target = detection_target(7, [blob(seed)[0] for seed in range(5)], SIZE, {None: 1})
    assert {name: (value.shape, value.dtype) for name, value in target.items() if name != "image_id"} == {
        "boxes": ((5, 4), torch.float32),
        "labels": ((5,), torch.int64),
        "masks": ((5, *SIZE), torch.uint8),
        "area": ((5,), torch.float32),
        "iscrowd": ((5,), torch.int64),
    }
    assert target["image_id"] == 7
    assert target["masks"].is_contiguous()
    assert target["iscrowd"].sum() == 0


def test_pixels_boxes_and_areas_are_those_of_the_masks():
    blobs = [blob(seed) for seed in range(40)]
    target = detection_target(0, [mask for mask, _ in blobs], SIZE, {None: 1})
    rles = [mask["segmentation"] for mask, _ in blobs]
    assert np.array_equal(target["masks"].numpy(), np.stack([pixels for _, pixels in blobs]))
    x, y, w, h = coco_mask.toBbox(rles).T
    assert np.array_equal(target["boxes"].numpy(), np.stack([x, y, x + w, y + h], axis=1))
    assert np.array_equal(target["area"].numpy(), coco_mask.area(rles))


@pytest.mark.parametrize("place", [(0, 0), (HEIGHT - 1, WIDTH - 1), (3, 5)])
def test_a_mask_of_one_pixel_has_a_box_of_one_pixel(place):
    pixels = np.zeros(SIZE, bool)
    pixels[place] = True
    target = detection_target(0, [encoded(pixels)], SIZE, {None: 1})
    y, x = place
    assert target["boxes"].tolist() == [[x, y, x + 1, y + 1]]


def test_a_mask_without_pixels_is_left_out_with_its_label():
    full, empty = np.ones(SIZE, bool), np.zeros(SIZE, bool)
    masks = [encoded(empty) | {"category_id": 4}, encoded(full) | {"category_id": 9}]
    target = detection_target(0, masks, SIZE, {4: 4, 9: 9, None: 10})
    assert (len(target["masks"]), target["labels"].tolist(), target["area"].tolist()) == (1, [9], [HEIGHT * WIDTH])
    assert target["boxes"].tolist() == [[0, 0, WIDTH, HEIGHT]]


def test_an_image_without_masks_has_a_target_without_masks():
    target = detection_target(0, [], SIZE, {None: 1})
    assert {name: tuple(value.shape) for name, value in target.items() if name != "image_id"} == {
        "boxes": (0, 4), "labels": (0,), "masks": (0, *SIZE), "area": (0,), "iscrowd": (0,)
    }  # fmt: skip


def write_names(path, *ids):
    path.write_text(json.dumps({"categories": [{"id": each, "name": f"name {each}"} for each in ids]}))


@pytest.fixture
def run(tmp_path):
    """Two images planned from coco.json; the first is done, with masks of categories 1 and 2."""
    output = str(tmp_path / "run")
    images = [SourceObject(f"file:///in/{number}.jpg", 1, "a") for number in range(2)]
    write_plan(output, f"file://{tmp_path}/coco.json", source_table(images), {})
    table = take_over(output)
    table.commit([shard(output, [row(0, 2, masks=[mask(each) | {"category_id": each} for each in (1, 2)])])])
    write_names(tmp_path / "coco.json", 0, 1, 2)
    return output, table


LABELS = {0: 1, 1: 2, 2: 3, None: 4}


def test_labels_are_the_ids_of_exports_and_depend_on_names_alone(run):
    output, table = run
    for selection in (MaskSelection(), MaskSelection(category_ids=(2,))):
        labels, names = read_labels(Results.open(output, {}, selection))
        assert labels == LABELS
        assert names == {1: "name 0", 2: "name 1", 3: "name 2", 4: "object"}
    table.commit([shard(output, [row(1, 1, masks=[mask(3) | {"category_id": 0}])])])
    assert read_labels(Results.open(output, {}))[0] == LABELS


def test_labels_of_the_grid_alone_are_those_of_its_exports(run, tmp_path):
    output, _ = run
    (tmp_path / "coco.json").unlink()
    assert read_labels(Results.open(output, {}, MaskSelection(source="grid"))) == ({None: 1}, {1: "object"})


def test_names_that_cannot_be_read_are_an_error_until_they_are_given(run, tmp_path):
    output, _ = run
    (tmp_path / "coco.json").rename(tmp_path / "moved.json")
    with pytest.raises(InputError, match=r"coco\.json.*give categories a file"):
        read_labels(Results.open(output, {}))
    assert read_labels(Results.open(output, {}), str(tmp_path / "moved.json"))[0] == LABELS
    (tmp_path / "coco.json").write_text("{")
    with pytest.raises(InputError, match=r"no names of categories: .*coco\.json"):
        read_labels(Results.open(output, {}))
    write_names(tmp_path / "coco.json", 0, 1)
    with pytest.raises(ConfigError, match="category 2 has no name"):
        read_labels(Results.open(output, {}))
    assert read_labels(Results.open(output, {}, MaskSelection(category_ids=(1,))))[0] == {0: 1, 1: 2, None: 3}


def test_masks_of_a_grid_have_one_label_whatever_they_were_planned_from(tmp_path):
    output = str(tmp_path / "run")
    write_plan(output, f"file://{tmp_path}/gone.json", source_table([SourceObject("file:///in/0.jpg", 1, "a")]), {})
    take_over(output, FINGERPRINT | {"mode": "grid"}).commit([shard(output, [row(0, 2)])])
    assert read_labels(Results.open(output, {})) == ({None: 1}, {1: "object"})
    write_names(tmp_path / "names.json", 3)
    assert read_labels(Results.open(output, {}), str(tmp_path / "names.json"))[0] == {3: 3, None: 4}
