"""Figures of a run, against the same figures of all its rows in memory; and curves against real selections."""

import json
from collections import Counter

import numpy as np
import pytest

from sam_pipeline.report.statistics import read_statistics
from sam_pipeline.results.categories import Categories
from sam_pipeline.results.results import Results
from sam_pipeline.results.selection.mask_selection import MaskSelection
from tests.report.runs import PROMPTED, grid_rows, prompted_rows, scored, write_run
from tests.storage.runs import HEIGHT, WIDTH, failed_row, plan, row, take_over

FAILED = [
    failed_row(5) | {"error": "cannot read file:///in/0005.jpg: it has 17 bytes"},
    failed_row(6) | {"error": "cannot read file:///in/0006.jpg: it has 3 bytes"},
    failed_row(7, "fetch_error") | {"error": "not found: '0007.jpg'"},
]


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    return write_run(str(tmp_path_factory.mktemp("grid")), [*grid_rows(), *FAILED], num_images=10)


@pytest.fixture(scope="module")
def prompted(tmp_path_factory):
    return write_run(str(tmp_path_factory.mktemp("prompted")), prompted_rows(), fingerprint=PROMPTED)


def statistics(output, **selection):
    return read_statistics(Results.open(output, {}, MaskSelection(**selection)), Categories())


def test_images_are_counted_by_how_they_ended(grid):
    found = statistics(grid)
    assert (found.num_planned, found.num_done, found.num_images) == (10, 8, 8)
    assert found.num_by_status == {"ok": 5, "decode_error": 2, "fetch_error": 1}
    assert (found.num_masks, found.num_without_masks) == (12, 1)


def test_errors_are_grouped_by_what_they_have_in_common(grid):
    groups = statistics(grid).errors
    assert [(group.num, group.status, group.message) for group in groups] == [
        (2, "decode_error", "cannot read …: it has … bytes"),
        (1, "fetch_error", "not found: …"),
    ]
    assert (groups[0].image_id, groups[0].uri, groups[0].error) == (5, "file:///in/0005.jpg", FAILED[0]["error"])


def test_the_numbers_are_those_of_the_masks(grid):
    found = statistics(grid)
    rows = grid_rows()
    masks = [mask for row in rows for mask in row["masks"]]
    for name in ("area", "predicted_iou", "stability_score"):
        values = np.array([mask[name] for mask in masks])
        spread = getattr(found, name)
        assert (spread.num, sum(spread.counts)) == (12, 12)
        assert (spread.min, spread.mean, spread.max) == pytest.approx((values.min(), values.mean(), values.max()))
    assert found.masks_per_image.median == 2
    covered = [sum(mask["area"] for mask in row["masks"]) / (HEIGHT * WIDTH) for row in rows]
    assert (found.coverage.num, found.coverage.mean) == (5, pytest.approx(np.mean(covered)))
    assert found.score.num == found.box_iou.num == len(found.categories) == 0


@pytest.mark.parametrize("setting", ["pred_iou_thresh", "stability_score_thresh"])
def test_a_curve_says_what_a_selection_keeps(grid, setting):
    (curve,) = (curve for curve in statistics(grid).curves if curve.setting == setting)
    found = list(zip(curve.thresholds, curve.num_masks, curve.num_images, strict=True))
    for threshold, num_masks, num_images in found[60:]:  # what is looser than the run is refused
        results = Results.open(grid, {}, MaskSelection(**{setting: threshold}))
        counts = [count for rows in results.tables(["num_masks"]) for count in rows["num_masks"].to_pylist()]
        assert (num_masks, num_images) == (sum(counts), np.count_nonzero(counts)), threshold
    assert found[0] == (0.0, 12, 4)
    assert len({count for _, count, _ in found}) > 3


def test_prompts_have_categories_scores_and_boxes(prompted):
    found = statistics(prompted)
    masks = [mask for row in prompted_rows() for mask in row["masks"]]
    expected = Counter(mask["category_id"] for mask in masks if mask["category_id"] is not None)
    assert {each.category_id: each.num_masks for each in found.categories} == expected
    images = Counter(
        number for row in prompted_rows() for number in {mask["category_id"] for mask in row["masks"]} - {None}
    )
    assert {each.category_id: each.num_images for each in found.categories} == images
    assert found.score.num == found.box_iou.num == 11
    assert found.score.mean == pytest.approx(np.mean([mask["score"] for mask in masks if mask["score"] is not None]))
    assert 0 < found.box_iou.median < 1
    assert [(group.num, group.status, group.message) for group in found.prompt_errors] == [
        (2, "prompt", "the box [… has no area".replace("[…", "[…, …, …, …]")),
        (1, "region", "fewer than … points"),
    ]


def test_all_is_of_what_a_selection_shows(prompted):
    found = statistics(prompted, category_ids=[1], include=["000[12].jpg"])
    masks = [mask for row in prompted_rows()[1:3] for mask in row["masks"] if mask["category_id"] == 1]
    assert (found.num_images, found.num_done, found.num_masks) == (2, 4, len(masks))
    assert found.selection == {"category_ids": (1,), "include": ("000[12].jpg",)}
    assert [each.category_id for each in found.categories] == [1]


def test_names_of_categories_are_told(prompted):
    found = read_statistics(Results.open(prompted, {}), Categories({0: "cat", 1: "dog"}))
    assert {each.category_id: each.name for each in found.categories} == {0: "cat", 1: "dog", 2: "2"}


def test_a_threshold_of_0_keeps_every_mask(tmp_path):
    masks = [scored(1, 0) | {"predicted_iou": -0.02, "stability_score": 0.0}, scored(2, 1)]
    output = write_run(str(tmp_path), [row(0, 2, masks=masks)], fingerprint=PROMPTED)
    for curve in statistics(output).curves:
        assert (curve.thresholds[0], curve.num_masks[0], curve.num_images[0]) == (0, 2, 1)
        assert statistics(output, **{curve.setting: 0.0}).num_masks == 2


@pytest.mark.parametrize("rows", [[], [failed_row(0), failed_row(1)]], ids=["nothing done", "only failures"])
def test_without_masks_there_is_nothing_but_counts(tmp_path, rows):
    output = str(tmp_path / "run")
    if rows:
        write_run(output, rows)
    else:
        plan(output, 3)
        take_over(output)
    found = statistics(output)
    assert found.num_masks == found.masks_per_image.num == found.area.num == 0
    assert all(set(curve.num_masks) == {0} for curve in found.curves)
    assert found.num_by_status == ({"decode_error": 2} if rows else {})


def test_all_figures_are_values_of_json(prompted):
    found = statistics(prompted, category_ids=[1])
    read = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert read["num_masks"] == found.num_masks
    assert read["curves"][0]["num_masks"] == list(found.curves[0].num_masks)
