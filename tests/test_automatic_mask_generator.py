"""The ported generator against the official one, over our networks in both, so that images take no time."""

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from sam_pipeline import SamAutomaticMaskGenerator
from sam_pipeline.errors import ConfigError
from sam_pipeline.utils import amg
from tests.parity.oracle import official_generator, official_module
from tests.small_sams import make_blob_sam, make_picture, make_tiny_sam

LOOSE = {"points_per_side": 5, "pred_iou_thresh": 0.5, "stability_score_thresh": 0.5}
GRIDS = [np.random.default_rng(0).uniform(0.05, 0.95, (count, 2)) for count in (20, 5)]
CASES = {
    "defaults but for the grid": {"points_per_side": 6},
    "loose": LOOSE,
    "no thresholds": LOOSE | {"pred_iou_thresh": 0.0, "stability_score_thresh": 0.0, "points_per_batch": 7},
    "crops": LOOSE | {"crop_n_layers": 1, "crop_n_points_downscale_factor": 2, "crop_overlap_ratio": 0.3},
    "small regions": LOOSE | {"min_mask_region_area": 30},
    "small regions of part of a pixel": LOOSE | {"min_mask_region_area": 29.5, "box_nms_thresh": 0.4},
    "points of one's own": LOOSE | {"points_per_side": None, "point_grids": GRIDS, "crop_n_layers": 1},
    "one array of grids": LOOSE | {"points_per_side": None, "point_grids": np.array(GRIDS[:1])},
    "more grids than layers": LOOSE | {"points_per_side": None, "point_grids": GRIDS},
    "nothing found": LOOSE | {"pred_iou_thresh": 1.0},
}


@pytest.fixture
def sam():
    """Networks that make blobs, which only the plain decoder can run."""
    return make_blob_sam()


@pytest.fixture
def image():
    return make_picture(90, 140)


@pytest.mark.parametrize("output_mode", ["binary_mask", "uncompressed_rle", "coco_rle"])
@pytest.mark.parametrize("settings", CASES.values(), ids=CASES)
def test_annotations_are_the_official_ones(sam, image, settings, output_mode):
    ours = SamAutomaticMaskGenerator(sam, **settings, output_mode=output_mode).generate(image)
    theirs = official_generator(sam, **settings, output_mode=output_mode).generate(image)
    assert len(ours) == len(theirs)
    assert (len(theirs) > 2) == (settings.get("pred_iou_thresh") != 1.0)
    for one, other in zip(ours, theirs, strict=True):
        assert list(one) == list(other)
        assert [type(value) for value in one.values()] == [type(value) for value in other.values()]
        segmentation, official_segmentation = one.pop("segmentation"), other.pop("segmentation")
        if output_mode == "binary_mask":
            assert segmentation.dtype == official_segmentation.dtype == bool
            np.testing.assert_array_equal(segmentation, official_segmentation)
        else:
            assert segmentation == official_segmentation
            assert list(segmentation) == list(official_segmentation)
        assert one == other | {
            name: pytest.approx(other[name], abs=1e-5) for name in ("predicted_iou", "stability_score")
        }


def test_the_default_output_is_a_mask_and_rle_is_for_pycocotools(sam, image):
    (mask, *_), (rle, *_) = (
        SamAutomaticMaskGenerator(sam, **LOOSE, **mode).generate(image) for mode in ({}, {"output_mode": "coco_rle"})
    )
    np.testing.assert_array_equal(coco_mask.decode(rle["segmentation"]), mask["segmentation"])


def test_settings_may_be_changed_between_images(sam, image):
    generator = SamAutomaticMaskGenerator(sam, **LOOSE)
    before = generator.generate(image)
    generator.pred_iou_thresh, generator.output_mode = 0.9, "uncompressed_rle"
    after = generator.generate(image)
    assert 0 < len(after) < len(before)
    assert all(annotation["predicted_iou"] > 0.9 for annotation in after)
    assert list(after[0]["segmentation"]) == ["size", "counts"]


def test_weights_written_through_data_are_followed(image):
    sam = make_tiny_sam()
    generator = SamAutomaticMaskGenerator(sam, **LOOSE | {"pred_iou_thresh": 0.0, "stability_score_thresh": 0.0})
    generator.generate(image)
    for parameter in sam.mask_decoder.parameters():
        parameter.data.mul_(0.9)
    anew = SamAutomaticMaskGenerator(sam, **LOOSE | {"pred_iou_thresh": 0.0, "stability_score_thresh": 0.0})
    ours, theirs = ([each["predicted_iou"] for each in of.generate(image)] for of in (generator, anew))
    assert ours == theirs


def test_masks_of_another_size_are_refused_by_the_generator(sam, image):
    class Larger(type(sam.mask_decoder)):
        def forward(self, **inputs):
            masks, iou_predictions = super().forward(**inputs)
            return masks.repeat_interleave(2, -1).repeat_interleave(2, -2), iou_predictions

    sam.mask_decoder = Larger()
    with pytest.raises(ValueError, match=r"logits must be 32 x 32.* gives \(56, 64\)"):
        SamAutomaticMaskGenerator(sam, **LOOSE).generate(image)


def test_scripts_find_the_official_attributes(sam):
    ours = SamAutomaticMaskGenerator(sam, **LOOSE, crop_n_layers=1)
    theirs = official_generator(sam, **LOOSE, crop_n_layers=1)
    assert vars(theirs).keys() <= vars(ours).keys()
    for name, value in vars(theirs).items():
        if name == "point_grids":
            np.testing.assert_equal(ours.point_grids, value)
        elif name != "predictor":
            assert getattr(ours, name) == value
    assert ours.predictor.model is sam


def test_small_regions_of_data_of_ones_own_go_as_officially():
    masks = [np.random.default_rng(seed).random((30, 40)) < 0.3 + 0.1 * seed for seed in range(5)]
    masks.append(np.ones((30, 40), bool))
    found = []
    for utils, generator in (
        (amg, SamAutomaticMaskGenerator),
        (official_module("utils.amg"), official_module("automatic_mask_generator").SamAutomaticMaskGenerator),
    ):
        tensor = official_module("utils.amg").torch.as_tensor(np.array(masks))
        data = utils.MaskData(rles=utils.mask_to_rle_pytorch(tensor), boxes=utils.batched_mask_to_box(tensor).numpy())
        generator.postprocess_small_regions(data, 5, 0.95)
        found.append((data["rles"], data["boxes"].tolist()))
        assert generator.postprocess_small_regions(utils.MaskData(rles=[]), 5, 0.7)["rles"] == []
    assert found[0] == found[1]
    assert found[0][0]


REMEDY = r'np\.asarray\(image\.convert\("RGB"\)\)'


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (Image.new("RGB", (8, 6)), f"got Image; {REMEDY}"),
        (Image.new("L", (8, 6)), REMEDY),
        (np.zeros((6, 8), np.uint8), f"shape \\(6, 8\\).*convert grayscale.*{REMEDY}"),
        (np.zeros((6, 8, 4), np.uint8), f"RGBA images to RGB.*{REMEDY}"),
        (np.zeros((3, 6, 8), np.uint8), r"shape \(3, 6, 8\).*np\.moveaxis\(image, 0, -1\)"),
        (np.zeros((6, 8, 3)), r"dtype float64.*astype\(np\.uint8\)"),
        (np.zeros((0, 8, 3), np.uint8), "it has no pixels"),
        ([[1]], "got list"),
    ],
)
def test_what_is_no_image_is_refused_with_a_remedy(sam, wrong, message):
    generator = SamAutomaticMaskGenerator(sam, points_per_side=2)
    for take in (generator.generate, generator.predictor.set_image):
        with pytest.raises(ValueError, match=message):
            take(wrong)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"points_per_side": None}, ValueError, "one of points_per_side and point_grids"),
        ({"point_grids": GRIDS}, ValueError, "one of points_per_side and point_grids"),
        ({"points_per_side": None, "point_grids": GRIDS[:1], "crop_n_layers": 1}, ValueError, "needs 2 point grids"),
        ({"output_mode": "png"}, ValueError, "binary_mask, uncompressed_rle, coco_rle, got 'png'"),
        ({"pred_iou_thresh": 1.5}, ConfigError, r"pred_iou_thresh must be in \[0, 1\]"),
    ],
)
def test_settings_that_cannot_be_are_refused_when_the_generator_is_made(sam, settings, error, message):
    with pytest.raises(error, match=message):
        SamAutomaticMaskGenerator(sam, **settings)


@pytest.mark.parametrize("step", ["_generate_masks", "_process_crop", "_process_batch", "postprocess_small_regions"])
def test_a_subclass_whose_steps_would_never_be_called_is_refused(step):
    own = {step: lambda self: None}
    with pytest.raises(TypeError, match=f"Own.{step} would never be called here"):
        type("Own", (SamAutomaticMaskGenerator,), own)
    with pytest.raises(TypeError, match=f"Mixed.{step} would never be called here"):
        type("Mixed", (type("Mixin", (), own), SamAutomaticMaskGenerator), {})
    type("Own", (SamAutomaticMaskGenerator,), {"generate": lambda self, image: []})
