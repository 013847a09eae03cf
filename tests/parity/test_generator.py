"""MobileSAM's real weights: our generator against the official one, record by record.

The two networks differ in the order of some additions, so logits agree to about 1e-4 and a pixel exactly on the mask
threshold may fall on either side. Everything else is compared as it is.
"""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import skimage.data
import torch
from oracle import official_generator, official_mobile_sam
from pycocotools import mask as coco_mask

from sam_pipeline.config import MaskConfig
from sam_pipeline.masks.generator import MaskGenerator
from sam_pipeline.model.registry import build_sam

pytestmark = pytest.mark.weights


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


def assert_same_masks(ours, theirs):
    assert len(theirs) > 2, "settings that find no masks compare nothing"
    assert len(ours) == len(theirs)
    for name in ("point_coords", "crop_box"):
        assert [record[name] for record in ours] == [record[name] for record in theirs]
    for name in ("predicted_iou", "stability_score"):
        np.testing.assert_allclose(
            [record[name] for record in ours], [record[name] for record in theirs], rtol=0, atol=1e-4
        )
    pairs = list(zip(ours, theirs, strict=True))
    ious = [coco_mask.iou([a["segmentation"]], [b["segmentation"]], [0]).item() for a, b in pairs]
    assert min(ious) > 0.999
    for record in ours:
        assert record["area"] == coco_mask.area(record["segmentation"])
    # Boxes hang on single pixels at the masks' edges.
    assert max(np.abs(np.subtract(a["bbox"], b["bbox"])).max() for a, b in pairs) <= 1


CASES = {
    "landscape": (landscape, {"points_per_side": 8}),
    "crops and small regions": (
        landscape,
        {
            "points_per_side": 8,
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
            "points_per_side": 8,
            "pred_iou_thresh": 0.7,
            "stability_score_thresh": 0.85,
            "stability_score_offset": 0.5,
            "box_nms_thresh": 0.9,
        },
    ),
    "larger than the model input": (larger_than_the_model_input, {"points_per_side": 8, "pred_iou_thresh": 0.8}),
    "small and gray": (small_and_gray, {"points_per_side": 8, "box_nms_thresh": 0.4, "pred_iou_thresh": 0.8}),
}


@pytest.mark.parametrize(("make_image", "settings"), CASES.values(), ids=CASES)
def test_masks_are_the_official_ones(sam, official_sam, make_image, settings):
    image = make_image()
    theirs = official_generator(official_sam, output_mode="coco_rle", **settings).generate(image)
    ours = MaskGenerator(sam, MaskConfig(**settings)).generate(image)
    assert_same_masks([record.to_dict() for record in ours], theirs)


@pytest.mark.slow
def test_masks_of_the_default_settings_are_the_official_ones(sam, official_sam):
    image = skimage.data.astronaut()
    theirs = official_generator(official_sam, output_mode="coco_rle").generate(image)
    ours = MaskGenerator(sam, MaskConfig()).generate(image)
    assert_same_masks([record.to_dict() for record in ours], theirs)
