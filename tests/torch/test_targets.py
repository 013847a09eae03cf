"""Targets of a detector against pycocotools and against the pixels that were stored."""

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from sam_pipeline.masks.runs import rle
from sam_pipeline.masks.runs.runs import Runs
from sam_pipeline.torch.targets import detection_target
from tests.end_to_end.pictures import HEIGHT, WIDTH
from tests.results.picture_runs import blob

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
