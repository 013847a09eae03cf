"""What polygons make of SAM's masks of photographs: the loss that is promised, by the rules of both readers."""

import numpy as np
import pytest
import skimage.data

from sam_pipeline.config import MaskConfig
from sam_pipeline.exports.polygons.polygons import mask_polygons
from sam_pipeline.exports.polygons.redrawing import coco_iou, yolo_iou
from sam_pipeline.masks.generator import MaskGenerator
from sam_pipeline.model.registry import build_sam

pytestmark = [pytest.mark.weights, pytest.mark.soak]

STRICT = {"points_per_side": 10}
# Rough masks of many parts, as a run has them that is to be filtered later.
LOOSE = {"points_per_side": 10, "pred_iou_thresh": 0.3, "stability_score_thresh": 0.3, "box_nms_thresh": 0.95}


@pytest.mark.parametrize("settings", [STRICT, LOOSE], ids=["strict", "loose"])
def test_the_loss_is_below_what_is_promised(vit_t_checkpoint, settings):
    generator = MaskGenerator(build_sam("vit_t", vit_t_checkpoint), MaskConfig(**settings))
    records = [
        record for image in (skimage.data.coffee(), skimage.data.chelsea()) for record in generator.generate(image)
    ]
    masks = [record.segmentation for record in records if record.area > 32**2]
    assert len(masks) > 10
    ious = []
    for mask in masks:
        height, width = mask["size"]
        polygons = mask_polygons(mask, parts="bridge", corners="pixels")
        ious.append(yolo_iou(mask, [(polygon / (width, height)).round(6) for polygon in polygons]))
        assert coco_iou(mask, mask_polygons(mask, parts="bridge", corners="edges")) == 1
    assert np.mean(ious) >= 0.99
    assert np.percentile(ious, 5) >= 0.95
