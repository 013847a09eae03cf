"""MobileSAM's real weights: our generator against the official one, record by record.

Same number of masks, in the same order, from the same points. Sums of floats may be taken in another order than the
official one, which moves scores in their sixth digit and a pixel where a logit is as close to the threshold as that.
"""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import skimage.data
import torch
from pycocotools import mask as coco_mask

from sam_pipeline.config import MaskConfig
from sam_pipeline.masks import prediction
from sam_pipeline.masks.generator import MaskGenerator
from sam_pipeline.masks.geometry.crops import prepare_crops
from sam_pipeline.masks.geometry.grids import build_point_grid
from sam_pipeline.model.registry import build_sam
from tests.parity.oracle import official_generator, official_mobile_sam

pytestmark = pytest.mark.weights

MAX_SCORE_DIFFERENCE = 1e-4
MIN_IOU = 0.999


@pytest.fixture(scope="module")
def sam(vit_t_checkpoint):
    return build_sam("vit_t", vit_t_checkpoint)


@pytest.fixture(scope="module")
def official_sam(vit_t_checkpoint):
    return official_mobile_sam(torch.load(vit_t_checkpoint, weights_only=True))


def landscape():
    return skimage.data.coffee()  # 400 × 600


def portrait():
    return np.rot90(skimage.data.chelsea()).copy()  # 451 × 300


def larger_than_the_model_input():
    return cv2.resize(skimage.data.rocket(), (1500, 1001), interpolation=cv2.INTER_CUBIC)


def small_and_gray():
    gray = cv2.resize(skimage.data.camera(), (150, 110), interpolation=cv2.INTER_AREA)
    return np.repeat(gray[..., None], 3, axis=2)


def assert_same_records(image, settings, sam, official_sam):
    theirs = official_generator(official_sam, output_mode="coco_rle", **settings).generate(image)
    assert_same(theirs, MaskGenerator(sam, MaskConfig(**settings)).generate(image))


def assert_same(theirs, records):
    assert len(theirs) > 2, "settings that find no masks compare nothing"
    ours = [record.to_dict() for record in records]
    assert len(ours) == len(theirs)
    for our, their in zip(ours, theirs, strict=True):
        for name in ("point_coords", "crop_box"):
            assert our[name] == their[name], name
        for name in ("predicted_iou", "stability_score"):
            assert our[name] == pytest.approx(their[name], abs=MAX_SCORE_DIFFERENCE), name
        assert coco_mask.iou([our["segmentation"]], [their["segmentation"]], [False]).item() >= MIN_IOU


CASES = {
    "landscape": (landscape, {"points_per_side": 8}),
    "crops and small regions": (
        landscape,
        {
            "points_per_side": 6,
            "crop_n_layers": 1,
            "crop_n_points_downscale_factor": 2,
            "min_mask_region_area": 200,
        },
    ),
    "no thresholds": (
        portrait,
        {"points_per_side": 5, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0, "points_per_batch": 9},
    ),
    "loose thresholds": (
        portrait,
        {
            "points_per_side": 6,
            "pred_iou_thresh": 0.7,
            "stability_score_thresh": 0.85,
            "stability_score_offset": 0.5,
            "box_nms_thresh": 0.9,
        },
    ),
    "larger than the model input": (larger_than_the_model_input, {"points_per_side": 6, "pred_iou_thresh": 0.8}),
    "small and gray": (small_and_gray, {"points_per_side": 6, "box_nms_thresh": 0.4, "pred_iou_thresh": 0.8}),
}


@pytest.mark.parametrize(("make_image", "settings"), CASES.values(), ids=CASES)
def test_records_are_the_official_ones(sam, official_sam, make_image, settings):
    assert_same_records(make_image(), settings, sam, official_sam)


@pytest.mark.slow
@pytest.mark.soak  # the official generator alone takes two minutes; what is above has its default thresholds
def test_records_of_the_default_settings_are_the_official_ones(sam, official_sam):
    assert_same_records(skimage.data.astronaut(), {}, sam, official_sam)


GRIDS = [np.random.default_rng(0).uniform(0.05, 0.95, (count, 2)) for count in (20, 5)]
"""For the image and a layer of crops: no regular grid."""


@pytest.mark.slow
@pytest.mark.soak  # a region, below, is a grid of one's own too
def test_points_of_ones_own_give_the_official_records(sam, official_sam):
    settings = {"crop_n_layers": 1, "pred_iou_thresh": 0.8}
    theirs = official_generator(
        official_sam, output_mode="coco_rle", points_per_side=None, point_grids=GRIDS, **settings
    ).generate(landscape())
    ours = MaskGenerator(sam, MaskConfig(**settings), point_grids=GRIDS).generate(landscape())
    assert_same(theirs, ours)


def test_a_region_leaves_the_records_of_the_points_inside_it(sam, official_sam):
    image, grid = landscape(), build_point_grid(8)
    region = np.array([[100, 50], [500, 50], [500, 390], [100, 390]])
    inside = [(100 < x < 500) and (50 < y < 390) for x, y in grid * (600, 400)]
    theirs = official_generator(
        official_sam, output_mode="coco_rle", points_per_side=None, point_grids=[grid[inside]]
    ).generate(image)
    generator = MaskGenerator(sam, MaskConfig(points_per_side=8))
    embeddings = prediction.encode(generator.sam, prepare_crops(image, generator.config), generator.precision)
    assert_same(theirs, generator.finish(generator.detect(embeddings, image.shape[:2], [region])))
