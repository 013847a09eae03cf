import numpy as np
import pytest

from sam_pipeline.evaluation.best_matches import BestMatches, best_matches, total


def truth(*crowds, category_id=1):
    return [{"category_id": category_id, "iscrowd": crowd} for crowd in crowds]


def test_each_object_has_its_best_iou_and_masks_find_one_object_each():
    # Both objects are met best by the first mask, which finds one of them; the second finds the other at 0.5 alone.
    ious = {(7, 1): np.array([[0.9, 0.8], [0.0, 0.6]])}
    found = best_matches(7, truth(0, 0), ious)
    assert found == BestMatches(2, pytest.approx(1.7), (2, 1))
    assert found.mean_best_iou == pytest.approx(0.85)
    assert found.recall == (1, 0.5)


def test_crowds_are_no_objects():
    ious = {(7, 1): np.array([[1.0, 0.5]])}
    assert best_matches(7, truth(1, 0), ious) == BestMatches(1, 0.5, (1, 0))
    assert best_matches(7, truth(1), {(7, 1): np.array([[1.0]])}) == BestMatches(0, 0.0, (0, 0))


def test_categories_are_apart_and_may_have_no_masks():
    ious = {(7, 1): np.array([[0.75]])}
    assert best_matches(7, truth(0) + truth(0, category_id=2), ious) == BestMatches(2, 0.75, (1, 1))


def test_no_objects_have_no_mean():
    nothing = best_matches(7, [], {})
    assert nothing.mean_best_iou is None
    assert nothing.recall == (None, None)


def test_a_total_weighs_objects_not_images():
    some = [BestMatches(1, 1.0, (1, 1)), BestMatches(3, 0.6, (1, 0))]
    assert total(some) == BestMatches(4, 1.6, (2, 1))
    assert total([]) == BestMatches(0, 0, (0, 0))
