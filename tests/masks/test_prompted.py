import pytest

from sam_pipeline.masks.prompted import Prompt


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "a box, points or a mask"),
        ({"point_labels": (1,)}, "0 points come with 1 labels"),
        ({"point_coords": ((1.0, 2.0), (3.0, 4.0)), "point_labels": (1,)}, "2 points come with 1 labels"),
    ],
)
def test_a_prompt_that_says_nothing_or_contradicts_itself_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Prompt(**fields)
