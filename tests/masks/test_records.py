import numpy as np
import pytest
from pycocotools import mask as coco_mask

from sam_pipeline.masks.records import MaskRecord
from sam_pipeline.masks.runs import rle
from sam_pipeline.masks.runs.runs import Runs


@pytest.fixture
def mask():
    return np.random.default_rng(0).random((6, 9)) < 0.4


@pytest.fixture
def record(mask):
    return MaskRecord(
        segmentation=rle.encode(Runs.of_mask(mask)),
        area=int(mask.sum()),
        bbox=(0, 0, 8, 5),
        predicted_iou=0.93,
        point_coords=((4.5, 3.0),),
        stability_score=0.97,
        crop_box=(0, 0, 9, 6),
    )


def test_to_dict_has_the_official_keys_and_types(record, mask):
    assert record.to_dict() == {
        "segmentation": {"size": [6, 9], "counts": record.segmentation["counts"]},
        "area": int(mask.sum()),
        "bbox": [0, 0, 8, 5],
        "predicted_iou": 0.93,
        "point_coords": [[4.5, 3.0]],
        "stability_score": 0.97,
        "crop_box": [0, 0, 9, 6],
    }


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools under NumPy 2
def test_binary_mask_is_what_pycocotools_decodes(record, mask):
    np.testing.assert_array_equal(record.binary_mask(), mask)
    np.testing.assert_array_equal(coco_mask.decode(record.to_dict()["segmentation"]), mask)
