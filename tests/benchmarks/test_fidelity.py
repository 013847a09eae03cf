import numpy as np
import pytest

from benchmarks.commands.fidelity import cached_masks, summary

IMAGE = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)


def test_masks_are_made_once(tmp_path):
    calls = []

    def generate():
        calls.append(1)
        return [{"predicted_iou": 0.9}]

    for points_per_batch in (64, 16):
        settings = {"points_per_side": 8, "points_per_batch": points_per_batch}
        assert cached_masks(IMAGE, settings, generate, tmp_path) == [{"predicted_iou": 0.9}]
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("image", "settings"), [(IMAGE[::-1], {}), (IMAGE.reshape(2, 8, 3), {}), (IMAGE, {"points_per_side": 8})]
)
def test_other_pixels_shapes_or_settings_are_made_anew(tmp_path, image, settings):
    cached_masks(IMAGE, {}, lambda: [], tmp_path)
    assert cached_masks(image, settings, lambda: [{"area": 1}], tmp_path) == [{"area": 1}]


def test_an_interrupted_run_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        cached_masks(IMAGE, {}, lambda: (_ for _ in ()).throw(KeyboardInterrupt), tmp_path)
    assert cached_masks(IMAGE, {}, lambda: [{"area": 1}], tmp_path) == [{"area": 1}]


def row(reference, masks, pairs, difference=0.0):
    return {"masks_reference": reference, "masks": masks, "pairs": pairs, "max_score_difference": difference}


def test_summary_counts_masks_not_photographs():
    found = summary([row(100, 100, 100), row(2, 1, 1, 1e-3)])
    assert found["equal_count"] == 0.5
    assert found["matched"] == pytest.approx(202 / 203)
    assert found["max_count_difference"] == 1
    assert found["max_score_difference"] == 1e-3
    assert not found["passed"]


def test_both_bars_must_be_cleared():
    assert summary([row(10, 10, 10)] * 20)["passed"]
    assert not summary([row(10, 10, 9)] * 20)["passed"]
    assert not summary([row(10, 10, 10)] * 18 + [row(1000, 1001, 1000)] * 2)["passed"]
