"""Photographs, real vit_t weights: our masks against those of the official generator as ground truth."""

import json

import pytest
import skimage.data
import torch

from sam_pipeline.config import MaskConfig
from sam_pipeline.masks.generator import MaskGenerator
from sam_pipeline.model.registry import build_sam
from tests.evaluation.compared import annotation, compare_run, saved_rows
from tests.parity.oracle import official_generator, official_mobile_sam
from tests.storage.runs import row
from tests.stored_masks import NO_PROMPT

PHOTOGRAPHS = {"chelsea.png": skimage.data.chelsea, "coffee.png": skimage.data.coffee}


@pytest.mark.weights
@pytest.mark.soak
def test_our_masks_are_those_of_the_official_generator(tmp_path, vit_t_checkpoint):
    ours = MaskGenerator(build_sam("vit_t", vit_t_checkpoint), MaskConfig(points_per_side=8))
    theirs = official_generator(official_mobile_sam(torch.load(vit_t_checkpoint, weights_only=True)), points_per_side=8)
    rows, images, annotations = [], [], []
    for number, (name, photograph) in enumerate(PHOTOGRAPHS.items()):
        pixels = photograph()
        height, width = pixels.shape[:2]
        masks = [record.to_dict() | NO_PROMPT for record in ours.generate(pixels)]
        rows.append(row(number, len(masks), masks=masks, height=height, width=width, uri=f"/photos/{name}"))
        images.append({"id": number + 1, "file_name": name, "height": height, "width": width})
        for found in theirs.generate(pixels):
            annotations.append(annotation(found["segmentation"]) | {"id": len(annotations), "image_id": number + 1})
    truth = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "object"}]}
    output = saved_rows(tmp_path / "run", json.loads(json.dumps(rows)))
    found = compare_run(output, tmp_path, truth)
    assert found.counts.num_objects > 10
    assert found.figures["mask"]["AP"] == found.figures["mask"]["AR@1000"] == 1
    # A pixel at the end of a thin mask moves its box, and thin boundaries are made of few pixels.
    for kind in ("box", "boundary"):
        assert found.figures[kind]["AP"] > 0.95
        assert found.figures[kind]["mean_best_iou"] > 0.99
