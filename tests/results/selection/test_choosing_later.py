"""Annotated once loosely and filtered afterwards, with real weights on a photograph: what a stricter run finds."""

import pytest
import skimage.data

from sam_pipeline import open_run
from sam_pipeline.config import MaskConfig
from sam_pipeline.masks import prediction
from sam_pipeline.masks.generator import MaskGenerator
from sam_pipeline.masks.geometry.crops import prepare_crops
from sam_pipeline.model.registry import build_sam
from sam_pipeline.results.filtering import filter_run
from sam_pipeline.results.results import Results
from sam_pipeline.results.selection.mask_selection import MaskSelection
from tests.storage.runs import FINGERPRINT, plan, row, shard, take_over
from tests.stored_masks import NO_PROMPT

pytestmark = pytest.mark.weights

POINTS = 8
STABLE = {"stability_score_thresh": 0.8}
ALL_LATER = {"pred_iou_thresh": 0.3, "stability_score_thresh": 0.3, "box_nms_thresh": 1.0}


@pytest.fixture(scope="module")
def annotated(vit_t_checkpoint):
    """Annotates the photograph, whose embedding is computed once."""
    sam, image = build_sam("vit_t", vit_t_checkpoint), skimage.data.coffee()
    (crop,) = prepare_crops(image, MaskConfig(), sam.image_encoder.img_size)
    image_embeddings = prediction.encode(sam, [crop], "fp32")

    def annotate(output, **settings):
        config = MaskConfig(points_per_side=POINTS, **settings)
        records = MaskGenerator(sam, config).decode(image_embeddings, image.shape[:2])
        masks = [{**record.to_dict(), **NO_PROMPT} for record in records]
        names = ("pred_iou_thresh", "stability_score_thresh", "box_nms_thresh")
        plan(output, 1)
        table = take_over(output, FINGERPRINT | {"mode": "grid"} | {name: getattr(config, name) for name in names})
        rows = [row(0, len(masks), masks=masks, height=image.shape[0], width=image.shape[1])]
        table.commit([shard(output, rows)])
        return open_run(output).to_arrow()

    return annotate


@pytest.mark.parametrize(
    ("loose", "strict"),
    [
        (STABLE | {"pred_iou_thresh": 0.0}, STABLE | {"pred_iou_thresh": 0.9}),
        (ALL_LATER, {"pred_iou_thresh": 0.7, "stability_score_thresh": 0.8, "box_nms_thresh": 0.3}),
    ],
)
def test_a_loose_run_filtered_is_the_stricter_run(annotated, tmp_path, loose, strict):
    source, new = str(tmp_path / "loose"), str(tmp_path / "filtered")
    before = annotated(source, **loose)
    wanted = annotated(str(tmp_path / "strict"), **strict)
    filter_run(Results.open(source, {}, MaskSelection(**strict)), new, lambda begun: lambda num_images: None)
    found = open_run(new).to_arrow()
    assert found["num_masks"].to_pylist() < before["num_masks"].to_pylist()
    assert found["num_masks"].to_pylist() > [2]
    assert in_order(found) == in_order(wanted)


def in_order(table):
    """Masks with the best first: a loose run may have them in another order than a strict one."""
    (masks,) = table["masks"].to_pylist()
    return sorted(masks, key=lambda mask: (-mask["predicted_iou"], mask["point_coords"]))
