import numpy as np
import pytest
from pycocotools import mask as coco_mask

from benchmarks.report import agreement, matched_share


def square(x0, size=100, **scores):
    mask = np.zeros((200, 400), dtype=np.uint8)
    mask[:size, x0 : x0 + size] = 1
    rle = coco_mask.encode(np.asfortranarray(mask))
    return {"segmentation": {"size": list(rle["size"]), "counts": rle["counts"].decode()}, **scores}


def test_the_same_masks_in_another_order_agree():
    found = agreement([square(0), square(150)], [square(150), square(0)])
    assert found["pairs"] == 2
    assert found["matched"] == 1


def test_a_mask_matches_only_one():
    found = agreement([square(0)], [square(0), square(0)])
    assert (found["masks_reference"], found["masks"], found["pairs"]) == (1, 2, 1)
    assert found["matched"] == pytest.approx(2 / 3)


def test_an_iou_below_the_bar_is_no_match():
    assert agreement([square(0)], [square(1)])["pairs"] == 0  # 99 / 101


def test_number_of_matches_comes_before_sum_of_ious():
    whole = square(0, size=200)
    pixels = coco_mask.decode(whole["segmentation"]).copy()
    pixels[:, 199], pixels[:100, 198] = 0, 0  # IoU with the whole 0.9925
    shaved = {"segmentation": coco_mask.encode(np.asfortranarray(pixels))}
    pixels[:, 197:199] = 0
    pixels[:100, 197] = 1  # with the shaved 0.9924, with the whole 0.985
    twice_shaved = {"segmentation": coco_mask.encode(np.asfortranarray(pixels))}
    assert agreement([whole, shaved], [shaved, twice_shaved])["pairs"] == 2


def test_largest_difference_over_scores_that_both_have():
    reference = [square(0, predicted_iou=0.9, stability_score=0.96)]
    assert agreement(reference, [square(0, predicted_iou=0.91)])["max_score_difference"] == pytest.approx(0.01)
    both = [square(0, predicted_iou=0.91, stability_score=0.99)]
    assert agreement(reference, both)["max_score_difference"] == pytest.approx(0.03)


def test_nothing_found_by_either_agrees_and_by_one_does_not():
    assert agreement([], [])["matched"] == 1
    assert agreement([square(0)], [])["matched"] == 0
    assert matched_share(0, 0, 3) == 0
