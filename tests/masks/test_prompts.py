import numpy as np
import pytest

from sam_pipeline.masks.prompts import Prompt, UnusablePrompt, points_in_regions, resolve_prompts

SIZE = (60, 80)
"""Height and width."""

EMPTY = dict.fromkeys(
    ("box_xyxy", "point_coords", "point_labels", "mask_input", "polygon", "category_id", "score", "error")
)


def row(prompt_id=0, role="prompt", is_relative=False, **fields):
    return {"role": role, "prompt_id": prompt_id, "is_relative": is_relative, **EMPTY, **fields}


def resolved(*rows):
    return resolve_prompts(rows, SIZE)


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


def test_everything_that_describes_an_object_comes_with_what_the_detector_said():
    logits = np.random.default_rng(0).normal(size=(256, 256)).astype("<f4")
    (prompt,) = resolved(
        row(
            9,
            box_xyxy=[1.0, 2.5, 30.0, 40.0],
            point_coords=[[3.0, 4.0], [5.5, 6.0]],
            point_labels=[1, 0],
            mask_input=logits.tobytes(),
            category_id=17,
            score=0.25,
        )
    ).prompts
    assert (prompt.prompt_id, prompt.category_id, prompt.score) == (9, 17, 0.25)
    assert prompt.box_xyxy == (1.0, 2.5, 30.0, 40.0)
    assert (prompt.point_coords, prompt.point_labels) == (((3.0, 4.0), (5.5, 6.0)), (1, 0))
    np.testing.assert_array_equal(prompt.mask_input, logits)


def test_shares_become_pixels():
    found = resolved(
        row(box_xyxy=[0.25, 0.5, 0.75, 1.0], point_coords=[[0.5, 0.1]], point_labels=[1], is_relative=True)
    )
    assert found.prompts[0].box_xyxy == (20, 30, 60, 60)
    assert found.prompts[0].point_coords == ((40, 6),)


def test_boxes_are_clipped_to_the_image():
    found = resolved(row(box_xyxy=[-5.0, -1e9, 30.0, 40.0]), row(box_xyxy=[70.0, 50.0, 81.0, 1e9]))
    assert [prompt.box_xyxy for prompt in found.prompts] == [(0, 0, 30, 40), (70, 50, 80, 60)]
    assert not found.errors


@pytest.mark.parametrize(
    "box",
    [
        [10.0, 10.0, 10.0, 20.0],
        [10.0, 20.0, 20.0, 10.0],
        [80.0, 0.0, 90.0, 10.0],
        [-9.0, -9.0, 0.0, 5.0],
        [float("nan"), 0.0, 5.0, 5.0],
        [0.0, 0.0, float("inf"), 5.0],
    ],
)
def test_a_box_without_area_in_the_image_is_an_error_and_the_others_are_not(box):
    found = resolved(row(4, box_xyxy=box), row(5, box_xyxy=[0.0, 0.0, 5.0, 5.0]))
    assert [prompt.prompt_id for prompt in found.prompts] == [5]
    ((role, prompt_id, error),) = [(each.role, each.prompt_id, each.error) for each in found.errors]
    assert (role, prompt_id) == ("prompt", 4)
    assert error.endswith("has no area in the image of 80x60 pixels")


def test_a_point_outside_the_image_is_an_error_and_one_on_its_edge_is_not():
    found = resolved(
        row(1, point_coords=[[80.0, 60.0]], point_labels=[1]),
        row(2, point_coords=[[1.0, 1.0], [80.1, 5.0]], point_labels=[1, 0]),
        row(3, point_coords=[[float("nan"), 5.0]], point_labels=[1]),
    )
    assert [prompt.prompt_id for prompt in found.prompts] == [1]
    assert [error.prompt_id for error in found.errors] == [2, 3]


def test_what_the_file_already_found_wrong_is_passed_on():
    assert resolved(row(3, error="bbox must be 4 numbers")).errors == [
        UnusablePrompt("prompt", 3, "bbox must be 4 numbers")
    ]


def test_regions_are_polygons_and_boxes_are_regions_too():
    assert resolve_prompts([], SIZE).regions is None
    found = resolved(
        row(0, "region", polygon=[[0.0, 0.0], [0.5, 0.0], [0.5, 1.0]], is_relative=True),
        row(1, "region", box_xyxy=[70.0, 50.0, 999.0, 999.0]),
        row(2, "region", box_xyxy=[90.0, 50.0, 999.0, 999.0]),
    )
    first, second = found.regions
    assert first.tolist() == [[0, 0], [40, 0], [40, 60]]
    assert second.tolist() == [[70, 50], [80, 50], [80, 60], [70, 60]]
    assert [(error.role, error.prompt_id) for error in found.errors] == [("region", 2)]


def test_an_image_whose_only_region_is_wrong_keeps_no_part_of_the_grid():
    assert resolved(row(2, "region", error="bbox must be 4 numbers")).regions == []


def test_points_lie_in_the_union_of_polygons_by_the_even_odd_rule():
    ring = [[0, 0], [10, 0], [10, 10], [0, 10], [0, 0], [3, 3], [3, 7], [7, 7], [7, 3], [3, 3]]
    triangle = [[20, 0], [30, 0], [20, 10]]
    points = np.array([[1, 1], [5, 5], [9, 5], [22, 2], [28, 8], [15, 5], [-1, 5]], float)
    inside = points_in_regions(points, [np.array(ring, float), np.array(triangle, float)])
    assert inside.tolist() == [True, False, True, True, False, False, False]
    assert not points_in_regions(points, []).any()
