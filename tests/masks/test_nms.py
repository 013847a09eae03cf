import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sam_pipeline.masks.nms import nms


def brute_force(boxes, scores, threshold):
    """torchvision's rule, one pair at a time: a box stays unless a kept one before it overlaps it too much."""
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)

    def area(box):
        return (box[2] - box[0]) * (box[3] - box[1])

    def iou(a, b):
        width = max(np.float32(0), min(a[2], b[2]) - max(a[0], b[0]))
        height = max(np.float32(0), min(a[3], b[3]) - max(a[1], b[1]))
        union = area(a) + area(b) - width * height
        return float(width * height / union) if union else float("nan")

    kept = []
    for i in sorted(range(len(boxes)), key=lambda i: (-scores[i], i)):
        if not any(iou(boxes[j], boxes[i]) > threshold for j in kept):
            kept.append(i)
    return kept


corner = st.tuples(st.integers(0, 12), st.integers(0, 12))
extent = st.tuples(st.integers(0, 8), st.integers(0, 8))  # 0: one pixel wide, of no area
scored_box = st.tuples(corner, extent, st.sampled_from([0.25, 0.5, 0.75, 1.0]))


@given(st.lists(scored_box, max_size=40), st.sampled_from([0.0, 0.3, 0.5, 0.7, 1.0]))
def test_nms_is_the_brute_force_rule(scored_boxes, threshold):
    boxes = np.array([(x, y, x + w, y + h) for (x, y), (w, h), _ in scored_boxes], np.int64).reshape(-1, 4)
    scores = np.array([score for *_, score in scored_boxes], np.float32)
    kept = nms(boxes, scores, threshold)
    assert kept.dtype == np.int64
    assert kept.tolist() == brute_force(boxes, scores.tolist(), threshold)


def test_ties_keep_their_order():
    boxes = np.array([[0, 0, 9, 9], [50, 50, 60, 60], [0, 0, 9, 9], [80, 80, 90, 90]])
    assert nms(boxes, np.ones(4, np.float32), 0.7).tolist() == [0, 1, 3]


def test_a_box_without_area_neither_suppresses_nor_is_suppressed():
    boxes = np.array([[5, 5, 5, 9], [5, 5, 5, 9], [0, 0, 10, 10]])
    assert nms(boxes, np.array([0.9, 0.8, 0.7], np.float32), 0.0).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("height", "threshold", "kept"),
    # float32(0.6) is above the double 0.6, float32(0.7) below the double 0.7: what counts is the double.
    [(6, 0.6, [0]), (7, 0.7, [0, 1]), (5, 0.5, [0, 1])],
)
def test_iou_is_float32_and_the_threshold_double(height, threshold, kept):
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, height]])
    assert nms(boxes, np.array([0.9, 0.8], np.float32), threshold).tolist() == kept


def test_nothing_in_nothing_out():
    assert nms(np.empty((0, 4)), np.empty(0, np.float32), 0.7).tolist() == []
