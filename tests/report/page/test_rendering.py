import numpy as np
import pytest

from sam_pipeline.report.counting.distributions import area_counter, share_counter
from sam_pipeline.report.counting.threshold_curves import ThresholdCurve
from sam_pipeline.report.page.charts import curve, histogram
from sam_pipeline.report.page.rendering import _least_threshold

GRID = {"mode": "grid", "pred_iou_thresh": 0.88}
FILTERED = {"filters": [{"source": "run", "version": 1, "selection": {"pred_iou_thresh": 0.9}}]}


@pytest.mark.parametrize(
    ("settings", "selection", "least"),
    [
        (GRID, {}, 0.88),
        (GRID | FILTERED, {}, 0.9),
        (GRID | FILTERED, {"pred_iou_thresh": 0.93}, 0.93),
        (GRID | {"mode": "prompted"}, {}, None),
        (GRID | {"mode": "prompted"} | FILTERED, {}, 0.9),
        ({}, {}, None),
    ],
)
def test_the_threshold_of_a_page_is_that_of_settings_filters_and_selection(settings, selection, least):
    assert _least_threshold(settings, selection, "pred_iou_thresh") == least


@pytest.mark.parametrize(
    ("least", "first"), [(None, 0.85), (0.8, 0.85), (0.88, 0.88), (0.8801, 0.885), (0.99, 0.99), (1.0, 0.995)]
)
def test_no_curve_offers_a_threshold_that_filter_refuses(least, first):
    thresholds = tuple(number / 200 for number in range(201))
    num_masks = tuple(10 if threshold < 0.89 else 5 for threshold in thresholds)
    drawn = curve(ThresholdCurve("pred_iou_thresh", thresholds, num_masks, num_masks), 10, least)
    assert (drawn.first, drawn.rows[0][0], drawn.rows[-1][0]) == (first, first, 1.0)


@pytest.mark.parametrize(
    ("counter", "values", "is_log", "first", "last"),
    [
        (share_counter(), [0.1, 0.9], False, "0 to 0.2", "0.8 to 1"),
        (share_counter(), [-3.0, 0.5, 7.0], False, "less than 0.2", "0.8 and more"),
        (area_counter(), [0.0, 0.0, 3.0], True, "less than 1.77828", "10 to 17.7828"),
    ],
)
def test_a_bin_with_what_is_beyond_it_says_so(counter, values, is_log, first, last):
    counter.add(np.array(values))
    chart = histogram("key", "Title", "masks", counter.distribution(), "{:g}".format, is_log=is_log)
    assert (chart.bars[0].range, chart.bars[-1].range) == (first, last)
