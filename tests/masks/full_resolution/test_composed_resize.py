"""Which axes are kept for the next image."""

import pytest

from sam_pipeline.masks.full_resolution.composed_resize import LONGEST_KEPT, composed_axis


@pytest.mark.parametrize(("length", "is_kept"), [(2250, True), (LONGEST_KEPT, True), (LONGEST_KEPT + 1, False)])
def test_axes_of_common_lengths_are_kept_and_very_long_ones_are_not(length, is_kept):
    first, second = composed_axis(256, 1024, length), composed_axis(256, 1024, length)
    assert (first is second) == is_kept
    assert first.weights.tolist() == second.weights.tolist()
