"""Edges of masks against every pixel computed one by one, to the bit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sam_pipeline.masks.full_resolution.composed_resize import composed_axis
from sam_pipeline.masks.full_resolution.mask_kernels import mask_edges
from sam_pipeline.masks.geometry.resize import preprocess_shape
from sam_pipeline.masks.runs.runs import Runs

SIDE = 32  # low-resolution logits along a side, of an input of 128 pixels

sizes = st.one_of(
    st.tuples(st.integers(1, 300), st.integers(1, 300)),
    st.sampled_from([(1, 1), (1, 300), (300, 1), (2, 3), (1024, 3), (3, 1024), (127, 129), (5, 7)]),
)
smooth, noise, steps = "smooth", "noise", "steps"


def logits_of(kind, seed, num_rows):
    random = np.random.default_rng(seed)
    if kind == smooth:
        x, y = np.meshgrid(np.linspace(0, 6, SIDE), np.linspace(0, 6, num_rows))
        a, b, c, d = random.normal(0, 2, 4)
        values = np.sin(a * x + b * y + c) * 5 + d
    elif kind == noise:
        values = random.normal(0, 1, (num_rows, SIDE))
    else:  # on and about the threshold, where rounding decides, and what is no number or almost none
        values = random.choice([-1.0, 0.0, 1.0, 1e-7, -1e-7, 1e-45, np.nan, np.inf, -np.inf], (num_rows, SIDE))
        values = np.where(random.random((num_rows, SIDE)) < 0.8, 1e-45 * random.integers(0, 2), values)
    return values.astype(np.float32)


def pixel_by_pixel(logits, rows, columns, threshold):
    """Nine logits on one side of the threshold decide; else the sums of three products, rounded one by one."""
    i, j = rows.starts[:, None], columns.starts
    nine = np.stack([logits[i + k, j + n] for k in range(3) for n in range(3)])
    along_rows = [
        columns.weights[:, 0] * logits[i + k, j]
        + columns.weights[:, 1] * logits[i + k, j + 1]
        + columns.weights[:, 2] * logits[i + k, j + 2]
        for k in range(3)
    ]
    value = sum(rows.weights[:, k, None] * along_rows[k] for k in range(3))
    bounded = np.isfinite(nine).all(axis=0)
    all_above, none_above = bounded & (nine > threshold).all(axis=0), bounded & (nine <= threshold).all(axis=0)
    return np.where(all_above, True, np.where(none_above, False, value > threshold))


@given(
    size=sizes,
    kind=st.sampled_from([smooth, noise, steps]),
    seed=st.integers(0, 10**6),
    threshold=st.sampled_from([0.0, 1.0, 0.3]),
)
def test_edges_are_those_of_the_pixels(size, kind, seed, threshold):
    input_size = preprocess_shape(*size, 4 * SIDE)
    logits = logits_of(kind, seed, min(SIDE, -(-input_size[0] // 16) * 4 + 4))
    rows, columns = (composed_axis(SIDE, input_size[axis], size[axis]) for axis in (0, 1))
    with np.errstate(invalid="ignore"):  # no number, times a weight
        expected = Runs.of_mask(pixel_by_pixel(logits, rows, columns, np.float32(threshold)))
    assert mask_edges(logits, rows, columns, threshold).tolist() == expected.edges.tolist()


@pytest.mark.parametrize("size", [(5000, 40), (40, 5000)])
def test_any_number_of_edges_has_room(size):
    """More than are allocated at first, and columns of more pixels than that."""
    logits = np.random.default_rng(0).choice(np.float32([-1, 1]), (SIDE, SIDE))
    rows, columns = (composed_axis(SIDE, 4 * SIDE, length) for length in size)
    edges = mask_edges(logits, rows, columns, 0.0)
    expected = Runs.of_mask(pixel_by_pixel(logits, rows, columns, np.float32(0)))
    assert edges.tolist() == expected.edges.tolist()
