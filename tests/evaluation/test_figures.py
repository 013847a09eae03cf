import numpy as np
import pytest

from sam_pipeline.evaluation.best_matches import BestMatches
from sam_pipeline.evaluation.figures import Evaluation, ImageFigures, figures
from sam_pipeline.evaluation.ground_truth.annotation_file import TruthImage
from sam_pipeline.evaluation.pairing import ComparedImage, Counts

NO_OBJECTS = BestMatches(0, 0.0, (0, 0))


def test_each_figure_is_a_mean_of_its_own_slice():
    """IoU threshold, recall, category, size, masks an image: each slice has its own value, and one category none."""
    precision, recall = np.full((10, 101, 3, 4, 4), -1.0), np.full((10, 3, 4, 4), -1.0)
    for category, worth in ((0, 1.0), (2, 3.0)):
        for size in range(4):
            for column in range(4):
                precision[:, :, category, size, column] = worth + 10 * size + 100 * column
                recall[:, category, size, column] = worth + 20 * size + 200 * column
    precision[0] *= precision[0] > -1
    precision[0][precision[0] == 0] = -1
    precision[5, :, 0, 0, 2] = 0
    found = figures(precision, recall, BestMatches(4, 3.0, (4, 2)))
    assert found["AP50"] == 202
    assert found["AP75"] == 203 / 2
    assert found["AP"] == pytest.approx((9 * 202 + 203 / 2) / 10)
    assert (found["AP_small"], found["AP_large"]) == (212, 232)
    assert (found["AR@1"], found["AR@10_small"], found["AR@1000_large"]) == (2, 222, 662)
    assert (found["mean_best_iou"], found["recall_50"], found["recall_75"]) == (0.75, 1, 0.5)


def test_without_objects_nothing_is_measured():
    found = figures(np.full((10, 101, 1, 4, 4), -1.0), np.full((10, 1, 4, 4), -1.0), NO_OBJECTS)
    assert set(found.values()) == {None}


def evaluation(*matches):
    images = []
    for number, each in enumerate(matches, 1):
        image = ComparedImage(number, TruthImage(number, None, None), number, f"{number}.jpg", "ok", (1, 1))
        images.append(ImageFigures(image, 3, {"mask": each}))
    return Evaluation("run", "truth.json", {}, "mean", True, Counts(), {}, [], images)


def test_the_worst_images_come_first_and_those_without_objects_never():
    some = evaluation(BestMatches(2, 1.0, (1, 0)), NO_OBJECTS, BestMatches(1, 0.9, (1, 1)), BestMatches(5, 0.5, (0, 0)))
    assert [each.image.uri for each in some.worst_images()] == ["4.jpg", "1.jpg", "3.jpg"]
    assert [each.image.uri for each in some.worst_images(1)] == ["4.jpg"]
