import numpy as np
import pytest
import torch

from sam_pipeline.config import MaskConfig
from sam_pipeline.masks import prediction
from sam_pipeline.masks.candidates import Candidates, to_records
from sam_pipeline.masks.decoder.plain_decoder import PlainDecoder
from sam_pipeline.masks.full_resolution.upscaling import Upscaling
from sam_pipeline.masks.generator import MaskGenerator, remove_small_regions
from sam_pipeline.masks.geometry.crops import prepare_crops
from sam_pipeline.masks.runs.runs import Runs
from tests.parity.oracle import official_generator

SETTINGS = {
    "defaults": {"points_per_side": 8},
    "one filter at a time: IoU": {"points_per_side": 8, "stability_score_thresh": 0.0},
    "one filter at a time: stability": {"points_per_side": 8, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.9},
    "no filters, every duplicate": {
        "points_per_side": 6, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0, "box_nms_thresh": 1.0,
    },
    "ragged last batch": {"points_per_side": 7, "points_per_batch": 10, "stability_score_offset": 0.5},
    "crops": {"points_per_side": 8, "crop_n_layers": 1, "pred_iou_thresh": 0.5},
    "two layers of crops, coarser grids": {
        "points_per_side": 9, "crop_n_layers": 2, "crop_n_points_downscale_factor": 2, "crop_nms_thresh": 0.4,
        "crop_overlap_ratio": 0.5, "pred_iou_thresh": 0.3,
    },
    "small regions": {"points_per_side": 8, "min_mask_region_area": 120, "pred_iou_thresh": 0.5},
    "small regions in crops": {
        "points_per_side": 6, "min_mask_region_area": 300, "crop_n_layers": 1, "box_nms_thresh": 0.9,
        "pred_iou_thresh": 0.3,
    },
    "regions all small": {"points_per_side": 5, "min_mask_region_area": 10**6, "pred_iou_thresh": 0.5},
}  # fmt: skip


def plain_generator(sam, config, precision="fp32"):
    """The fast decoder reads weights, and the blob model has none."""
    return MaskGenerator(sam, config, precision, decoder=PlainDecoder(sam))


@pytest.mark.parametrize("size", [(150, 230), (260, 140), (61, 60)])
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_records_are_the_official_ones(blob_sam, picture, settings, size):
    image = picture(*size)
    official = official_generator(blob_sam, output_mode="coco_rle", **settings).generate(image)
    records = plain_generator(blob_sam, MaskConfig(**settings)).generate(image)
    assert official
    assert [record.to_dict() for record in records] == official


def test_each_setting_above_takes_effect(blob_sam, picture):
    """Otherwise the comparison with the official generator would pass without comparing anything."""
    image = picture(150, 230)
    masks = {
        name: tuple(
            record.segmentation["counts"] for record in plain_generator(blob_sam, MaskConfig(**s)).generate(image)
        )
        for name, s in SETTINGS.items()
    }
    assert len(set(masks.values())) == len(SETTINGS)
    in_crops = plain_generator(blob_sam, MaskConfig(**SETTINGS["small regions in crops"])).generate(image)
    assert len({record.crop_box for record in in_crops}) > 2


def test_encode_and_decode_make_up_generate(blob_sam, picture):
    image = picture(150, 230)
    config = MaskConfig(points_per_side=6, crop_n_layers=1, pred_iou_thresh=0.5)
    masks = plain_generator(blob_sam, config)
    image_embeddings = prediction.encode(masks.sam, prepare_crops(image, config, img_size=128), masks.precision)
    assert masks.decode(image_embeddings, (150, 230)) == masks.generate(image)


def test_masks_that_fail_the_iou_threshold_are_never_upscaled(blob_sam, picture, monkeypatch):
    measured = []
    measure = Upscaling.measure
    monkeypatch.setattr(Upscaling, "measure", lambda *args: measured.append(len(args[1])) or measure(*args))
    config = MaskConfig(points_per_side=6, pred_iou_thresh=1.0, crop_n_layers=1)
    assert plain_generator(blob_sam, config).generate(picture(90, 140)) == []
    assert sum(measured) == 0 < len(measured)


@pytest.mark.parametrize("min_area", [0, 100])
@pytest.mark.parametrize("layers", [0, 1])
def test_an_image_without_masks_gives_none(blob_sam, picture, layers, min_area):
    config = MaskConfig(
        points_per_side=4, pred_iou_thresh=0.99999, crop_n_layers=layers, min_mask_region_area=min_area
    )  # fmt: skip
    assert plain_generator(blob_sam, config).generate(picture(90, 140)) == []


def test_thresholds_of_zero_keep_even_empty_masks(blob_sam, picture, monkeypatch):
    """Their stability is 0/0; suppression spares boxes without area."""
    monkeypatch.setattr(blob_sam, "mask_threshold", 1e6)
    config = MaskConfig(points_per_side=4, pred_iou_thresh=0.0, stability_score_thresh=0.0)
    records = plain_generator(blob_sam, config).generate(picture(90, 140))
    assert len(records) == 4 * 4 * 3
    assert {(record.area, record.bbox) for record in records} == {(0, (0, 0, 0, 0))}


@pytest.mark.parametrize("thresholds", [(0.88, 0.95), (0.0, 0.0), (1.0, 1.0)])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_embeddings_that_are_no_numbers_hold_no_masks(tiny_sam, value, thresholds):
    """Such as a checkpoint with broken weights gives: no crash, and no mask made of noise."""
    config = MaskConfig(points_per_side=4, pred_iou_thresh=thresholds[0], stability_score_thresh=thresholds[1])
    assert MaskGenerator(tiny_sam, config).decode(torch.full((1, 256, 8, 8), value), (90, 140)) == []


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (3, 2), (1, 3000)])
def test_the_smallest_images_with_every_step_on(blob_sam, size):
    config = MaskConfig(
        points_per_side=3, pred_iou_thresh=0.0, stability_score_thresh=0.0, crop_n_layers=2, min_mask_region_area=2
    )
    for record in plain_generator(blob_sam, config).generate(np.full((*size, 3), 200, np.uint8)):
        assert record.segmentation["size"] == list(size)
        assert record.binary_mask().sum() == record.area


def test_an_empty_mask_passes_small_region_removal_as_it_was():
    """The official generator suppresses by boxes computed anew, but records them only for masks that changed."""
    island, square = np.zeros((2, 40, 40), bool)
    island[5:20, 5:20] = island[30, 30] = True
    square[22:38, 2:18] = True
    found = Candidates(
        masks=[Runs.of_mask(mask) for mask in (island, np.zeros((40, 40), bool), square)],
        boxes_xyxy=np.array([[5, 5, 30, 30], [20, 20, 20, 20], [2, 22, 17, 37]]),
        iou_predictions=np.array([0.9, 0.8, 0.7], np.float32),
        stability_scores=np.ones(3, np.float32),
        point_coords=np.zeros((3, 2)),
        crop_boxes_xyxy=np.array([[20, 20, 40, 40]] * 3),
    )
    cleaned = remove_small_regions(found, min_area=10, nms_thresh=0.7)
    assert cleaned.boxes_xyxy.tolist() == [[20, 20, 20, 20], [2, 22, 17, 37], [5, 5, 19, 19]]
    assert cleaned.iou_predictions.tolist() == found.iou_predictions[[1, 2, 0]].tolist()
    assert [record.area for record in to_records(cleaned)] == [0, 256, 225]
    nothing = found.take(np.array([], dtype=np.int64))
    assert to_records(remove_small_regions(nothing, min_area=10, nms_thresh=0.7)) == []


def test_decode_takes_embeddings_of_other_types_and_refuses_other_counts(blob_sam, picture):
    config = MaskConfig(points_per_side=4, crop_n_layers=1)
    masks = plain_generator(blob_sam, config, precision="bf16")
    image_embeddings = prediction.encode(
        masks.sam, prepare_crops(picture(90, 140), config, img_size=128), masks.precision
    )
    assert image_embeddings.dtype == torch.bfloat16
    assert masks.decode(image_embeddings, (90, 140)) == masks.decode(image_embeddings.float(), (90, 140)) != []
    with pytest.raises(ValueError, match="has 5 crops, got 4 embeddings"):
        masks.decode(image_embeddings[:4], (90, 140))


def test_generate_refuses_grayscale(blob_sam):
    with pytest.raises(ValueError, match="RGB first"):
        plain_generator(blob_sam, MaskConfig()).generate(np.zeros((4, 4), np.uint8))
