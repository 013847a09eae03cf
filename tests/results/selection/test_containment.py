"""Which masks lie in which others, against the same rule by pixels."""

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
