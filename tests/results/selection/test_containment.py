"""Which masks lie in which others, against the same rule by pixels."""

import tracemalloc

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sam_pipeline.masks.runs import rle
from sam_pipeline.masks.runs.runs import Runs
from sam_pipeline.results.selection.containment import LEAST_SHARE, contained

HEIGHT, WIDTH = 9, 11


@st.composite
def masks(draw):
    """Boxes with a few pixels changed; some are empty."""
    pixels = np.zeros((HEIGHT, WIDTH), bool)
    x, y, w, h = (draw(st.integers(0, most)) for most in (6, 5, 5, 4))
    pixels[y : y + h, x : x + w] = True
    for _ in range(draw(st.integers(0, 2))):
        place = draw(st.integers(0, HEIGHT - 1)), draw(st.integers(0, WIDTH - 1))
        pixels[place] = not pixels[place]
    return pixels


@given(st.lists(masks(), min_size=1, max_size=6))
@settings(deadline=None)  # the first encoding is compiled
def test_a_mask_lies_in_a_larger_one_that_has_nine_tenths_of_its_pixels(pixels):
    found = contained([rle.encode(Runs.of_mask(each)) for each in pixels])
    areas = [int(each.sum()) for each in pixels]
    for i, inner in enumerate(pixels):
        for j, outer in enumerate(pixels):
            is_smaller = areas[i] < areas[j] or (areas[i] == areas[j] and i > j)
            share = (inner & outer).sum() / areas[i] if areas[i] else 0
            assert found[i, j] == (is_smaller and share >= LEAST_SHARE), (i, j)


def test_hundreds_of_masks_are_compared_with_each_other():
    """pycocotools cannot count the pixels of more than 255 masks at once."""
    small, large = (rle.encode(Runs.of_mask(np.tri(3, 3, k, dtype=bool))) for k in (0, 2))
    found = contained([small, large] * 150)
    assert found[0::2, 1::2].all()
    assert not found[1::2, 0::2].any()
    assert (found[0::2, 0::2] == np.tri(150, k=-1, dtype=bool)).all()


def test_thousands_of_masks_in_an_image_are_compared_in_bounded_memory():
    lines = [rle.encode(Runs.of_mask(np.eye(1, 3000, place, dtype=bool))) for place in range(3000)]
    tracemalloc.start()
    assert not contained(lines).any()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100e6
