"""Quantiles and bins of values that came in parts, against NumPy's of all of them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sam_pipeline.report.counting.distributions import (
    Distribution,
    area_counter,
    number_counter,
    score_counter,
    share_counter,
)

SHARES = st.lists(st.floats(0, 1), min_size=1, max_size=200)


@given(SHARES)
@settings(deadline=None)
def test_quantiles_of_shares_are_within_a_thousandth(values):
    counter = share_counter()
    for part in np.array_split(np.array(values), 3):
        counter.add(part)
    found = counter.distribution()
    assert (found.num, found.min, found.max) == (len(values), min(values), max(values))
    assert found.mean == pytest.approx(np.mean(values))
    for share, value in ((0.05, found.p05), (0.5, found.median), (0.95, found.p95)):
        low, high = (np.quantile(values, share, method=method) for method in ("lower", "inverted_cdf"))
        assert min(low, high) - 0.00101 <= value <= max(low, high) + 0.00101


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=200))
@settings(deadline=None)
def test_quantiles_of_numbers_are_exact(values):
    counter = number_counter()
    counter.add(np.array(values, dtype=np.float64))
    assert counter.distribution().median == np.quantile(values, 0.5, method="inverted_cdf")


@given(st.lists(st.floats(1, 1e9), min_size=1, max_size=200))
@settings(deadline=None)
def test_quantiles_of_areas_are_within_two_steps(values):
    counter = area_counter()
    counter.add(np.array(values))
    assert counter.distribution().median == pytest.approx(np.quantile(values, 0.5, method="inverted_cdf"), rel=0.05)


@pytest.mark.parametrize(("low", "high"), [(5, 80), (20, 98), (-12, 9), (-3, -1), (-5000, 5), (0, 3e6), (1e9, 5e9)])
@pytest.mark.parametrize("num", [1, 9, 10_000])
def test_scores_of_any_range_have_quantiles_and_bins(low, high, num):
    values = np.random.default_rng(0).uniform(low, high, num)
    counter = score_counter()
    counter.add(values)
    found = counter.distribution()
    for share, value in ((0.05, found.p05), (0.5, found.median), (0.95, found.p95)):
        nearest = np.quantile(values, share, method="inverted_cdf")
        tolerance = 0.002 + 0.011 * abs(nearest) * (abs(nearest) > 10)
        assert value == pytest.approx(nearest, abs=(high - low) if low == 1e9 else tolerance)
        assert found.min <= value <= found.max
    assert sum(found.counts) == num
    assert len(found.counts) <= 32
    if low < 1e9:
        assert found.edges[0] <= found.min <= found.max < found.edges[-1]
        assert np.allclose(np.diff(found.edges), np.diff(found.edges)[0])
        assert found.counts == tuple(np.histogram(values.round(6), found.edges)[0])


@given(st.lists(st.integers(0, 10**8), min_size=1, max_size=100))
@settings(deadline=None)
def test_quantiles_of_large_numbers_are_within_a_hundredth(values):
    counter = number_counter()
    counter.add(np.array(values, dtype=np.float64))
    assert counter.distribution().median == pytest.approx(np.quantile(values, 0.5, method="inverted_cdf"), rel=0.011)


def test_bins_around_a_single_value_are_not_below_0():
    counter = score_counter()
    counter.add(np.zeros(3))
    assert counter.distribution().edges == (0.0, 0.005, 0.01, 0.015, 0.02, 0.025)


@given(st.lists(st.integers(0, 300), min_size=1, max_size=500))
@settings(deadline=None)
def test_bins_are_those_of_numpy(values):
    counter = number_counter()
    counter.add(np.array(values, dtype=np.float64))
    found = counter.distribution()
    assert found.counts == tuple(np.histogram(values, [*found.edges[:-1], found.edges[-1] - 0.5])[0])
    assert len(found.counts) <= 32
    assert len(found.counts) == 5 or all((found.counts[0], found.counts[-1]))


def test_a_stored_score_is_in_the_bin_that_begins_with_it():
    counter = share_counter()
    counter.add(np.full(1000, 0.88, np.float32).astype(np.float64))
    found = counter.distribution()
    assert found.edges[np.flatnonzero(found.counts)[0]] == 0.88


def test_what_is_beyond_the_bins_is_in_the_last_one():
    counter = share_counter()
    counter.add(np.array([-3.0, 0.5, 7.0, np.nan]))
    found = counter.distribution()
    assert (found.num, found.min, found.max, found.counts[0], found.counts[-1]) == (3, -3.0, 7.0, 1, 1)


def test_no_values_have_no_quantiles():
    counter = area_counter()
    counter.add(np.array([np.nan]))
    assert counter.distribution() == Distribution(0)
