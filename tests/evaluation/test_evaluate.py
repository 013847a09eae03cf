"""Runs compared with annotation files: cases worked out by hand, and pycocotools as the oracle of all figures."""

import json
import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sam_pipeline.errors import InputError
from sam_pipeline.evaluation.coco_evaluator import CocoEvaluator
from sam_pipeline.masks.runs import rle
from sam_pipeline.results.selection.mask_selection import MaskSelection
from sam_pipeline.storage.inputs.source_object import SourceObject, source_table
from sam_pipeline.storage.tables.plan import write_plan
from tests.evaluation.compared import (
    HEIGHT,
    WIDTH,
    annotation,
    by_pycocotools,
    coco_file,
    compare,
    compare_run,
    prompted,
    rectangle,
    saved_rows,
    saved_run,
    stored,
)
from tests.storage.runs import failed_row, row, shard, take_over

LEFT, RIGHT, BIG = rectangle(10, 10, 20, 20), rectangle(90, 10, 20, 20), rectangle(20, 20, 100, 90)
HALF = rectangle(90, 10, 10, 20)
"""The left half of RIGHT: an IoU of 0.5."""


@pytest.fixture(scope="module")
def random_case():
    """Overlapping shapes: moved and unmoved copies of the objects, strays, equal scores, crowds, no shapes at all."""
    generator = np.random.default_rng(3)

    def shape():
        x, y, w, h = (int(generator.integers(*limits)) for limits in ((0, 100), (0, 80), (3, 60), (3, 40)))
        pixels = rectangle(x, y, w, h)
        if generator.random() < 0.5:  # an ellipse, and then a hole in some
            rows, columns = np.mgrid[:HEIGHT, :WIDTH]
            pixels = ((rows - y - h / 2) / h * 2) ** 2 + ((columns - x - w / 2) / w * 2) ** 2 <= 1
            pixels[y + h // 2, x + w // 2 : x + w // 2 + 5] = False
        return pixels if pixels.any() else rectangle(x, y, w, h)

    truth, masks = [], []
    for number in range(40):  # more than are compared at once
        shapes = [shape() for _ in range(generator.integers(1, 9))]
        names = [int(generator.integers(1, 4)) for _ in shapes]
        is_crowd = [int(generator.random() < 0.15) for _ in shapes]
        objects = zip(shapes, names, is_crowd, strict=True)
        truth.append([annotation(each, name, iscrowd=crowd) for each, name, crowd in objects] if number != 2 else [])
        moved = [np.roll(each, int(generator.integers(0, 4)), axis=1) for each in shapes]
        found = [*zip(moved, names, strict=True), *((shape(), int(generator.integers(1, 5))) for _ in range(6))]
        scores = [round(float(generator.random()), 1) for _ in found]
        masks.append(
            [
                prompted(each, score, category_id=name, prompt_id=place)
                for place, ((each, name), score) in enumerate(zip(found, scores, strict=True))
            ]
            if number != 5
            else []
        )
    return truth, masks


@pytest.mark.parametrize("use_cats", [False, True], ids=["class-agnostic", "by category"])
@pytest.mark.parametrize("kind", ["mask", "box"])
def test_figures_are_those_of_pycocotools(tmp_path, random_case, kind, use_cats):
    truth, masks = random_case
    file = coco_file(truth, ("cat", "dog", "cow"))
    found = compare(tmp_path, masks, file, iou=(kind,), class_agnostic=not use_cats, rank_by="predicted_iou")
    known = [[mask for mask in some if mask["category_id"] < 4] for some in masks] if use_cats else masks
    expected = by_pycocotools(known, file, kind, use_cats=use_cats)
    assert {name: found.figures[kind][name] for name in expected} == pytest.approx(expected, abs=1e-9)
    assert found.counts.num_other_category == sum(map(len, masks)) - sum(map(len, known))


def test_a_run_against_its_own_masks(tmp_path, random_case):
    """As its export holds them: boxes of whole pixels, ids from 1, a category for all."""
    _, masks = random_case
    truth = coco_file([[annotation(rle.decode(mask["segmentation"])) for mask in some] for some in masks])
    found = compare(tmp_path, masks, truth, class_agnostic=True)
    for kind in ("mask", "box", "boundary"):
        of_kind = found.figures[kind]
        assert of_kind["AP"] == of_kind["AR@100"] == of_kind["mean_best_iou"] == of_kind["recall_75"] == 1


def test_two_objects_of_which_the_better_half_of_the_masks_finds_one(tmp_path):
    """Masks by rank: a stray, LEFT itself, half of RIGHT. Precision after each: 0, 1/2, and 2/3 where 0.5 counts."""
    stray = rectangle(0, 100, 5, 5)
    masks = [[stored(stray, 0.9), stored(LEFT, 0.8), stored(HALF, 0.7)]]
    found = compare(tmp_path, masks, coco_file([[annotation(LEFT), annotation(RIGHT)]])).figures
    # At an IoU of 0.5 both are found, and precision is 2/3 up to full recall. From 0.55 on one is, with a precision of
    # 1/2 for the 51 of 101 recalls up to a half.
    at_half, above = 2 / 3, 51 / 101 / 2
    for kind in ("mask", "box"):
        assert found[kind]["AP50"] == pytest.approx(at_half)
        assert found[kind]["AP75"] == pytest.approx(above)
        assert found[kind]["AP"] == pytest.approx((at_half + 9 * above) / 10)
        assert found[kind]["AR@1"] == 0
        assert found[kind]["AR@10"] == pytest.approx((1 + 9 * 0.5) / 10)
        assert found[kind]["AR@10_small"] == found[kind]["AR@1000"] == found[kind]["AR@10"]
        assert found[kind]["AP_medium"] is found[kind]["AR@100_large"] is None
        assert found[kind]["mean_best_iou"] == pytest.approx(0.75)
        assert (found[kind]["recall_50"], found[kind]["recall_75"]) == (1, 0.5)
    # Of 200 pixels diagonal the band is four pixels wide: 20² - 12² = 256 of RIGHT, 10 · 20 - 2 · 12 = 176 of its half.
    # They share the upper and lower bands of the half and its left: 2 · 4 · 10 + 12 · 4 = 128.
    assert found["boundary"]["mean_best_iou"] == pytest.approx((1 + 128 / (256 + 176 - 128)) / 2)
    assert found["boundary"]["recall_50"] == 0.5


def test_a_mask_that_answers_for_a_crowd_is_neither_right_nor_wrong(tmp_path):
    crowd = annotation(BIG, iscrowd=1)
    masks = [[stored(rectangle(30, 30, 20, 20), 0.95), stored(rectangle(60, 60, 20, 20), 0.94), stored(LEFT, 0.9)]]
    found = compare(tmp_path, masks, coco_file([[crowd, annotation(LEFT)]]), iou=("mask",))
    assert found.figures["mask"]["AP"] == 1
    assert (found.counts.num_objects, found.counts.num_crowds) == (1, 1)
    assert found.images[0].matches["mask"].num_objects == 1


def test_a_failed_image_counts_as_one_without_masks(tmp_path):
    rows = [row(0, 1, masks=[stored(LEFT)], height=HEIGHT, width=WIDTH), failed_row(1)]
    saved_rows(tmp_path / "run", rows, num_images=3)
    truth = coco_file([[annotation(LEFT)], [annotation(LEFT)], [annotation(LEFT)]])
    found = compare_run(str(tmp_path / "run"), tmp_path, truth)
    assert found.counts.images == {"ok": 1, "decode_error": 1}
    assert found.counts.num_only_in_truth == 1  # planned, and not annotated yet
    for kind in ("mask", "box", "boundary"):
        assert found.figures[kind]["AR@1000"] == found.figures[kind]["mean_best_iou"] == 0.5
    assert [each.image.uri for each in found.worst_images()] == ["file:///in/0001.jpg", "file:///in/0000.jpg"]


def test_a_failed_image_of_unknown_size_counts_too(tmp_path):
    saved_rows(tmp_path / "run", [failed_row(0), failed_row(1)])
    polygon = {"segmentation": [[10, 10, 110, 10, 110, 110]], "category_id": 1, "iscrowd": 0}
    truth = coco_file([[polygon], [annotation(BIG)]])
    truth["images"] = [{"id": image["id"], "file_name": image["file_name"]} for image in truth["images"]]
    found = compare_run(str(tmp_path / "run"), tmp_path, truth)
    assert found.counts.num_unusable == 0
    assert found.figures["mask"]["AR@1000"] == 0
    assert found.figures["mask"]["AR@1000_medium"] == 0
    assert found.figures["mask"]["AR@1000_small"] is None


def test_no_masks_at_all_are_zeros(tmp_path):
    found = compare(tmp_path, [[], []], coco_file([[annotation(LEFT)], [annotation(BIG)]]))
    assert {found.figures[kind]["AP"] for kind in found.figures} == {0}
    assert found.figures["mask"]["recall_50"] == found.figures["mask"]["mean_best_iou"] == 0


def test_images_of_one_side_alone_are_counted_and_left_out(tmp_path):
    truth = coco_file([[annotation(LEFT)], [annotation(LEFT)], [annotation(LEFT)]])
    truth["images"][0]["file_name"] = "other.jpg"
    found = compare(tmp_path, [[stored(LEFT)], [stored(LEFT)]], truth)
    assert (found.counts.num_only_in_truth, found.counts.num_only_in_run) == (2, 1)
    assert found.figures["mask"]["AP"] == 1


def test_an_image_without_objects_is_compared(tmp_path):
    masks = [[stored(LEFT, 0.8)], [stored(LEFT, 0.9)]]
    found = compare(tmp_path, masks, coco_file([[annotation(LEFT)], []]))
    assert found.figures["mask"]["AP"] == pytest.approx(0.5)
    assert [each.image.uri for each in found.worst_images()] == ["file:///in/0000.jpg"]


def test_images_of_another_size_are_left_out(tmp_path, caplog):
    truth = coco_file([[annotation(LEFT)], [annotation(LEFT)]])
    truth["images"][1] |= {"height": WIDTH, "width": HEIGHT}
    masks = [[stored(LEFT)], [stored(LEFT)]]
    with caplog.at_level(logging.WARNING):
        found = compare(tmp_path / "some", masks, truth)
    assert found.counts.num_other_size == 1
    assert found.counts.images.total() == 1
    assert "1 images have another size in the ground truth, such as 'file:///in/0001.jpg'" in caplog.text
    assert "160x120 in the run, 120x160 in the ground truth (which seems to be of the image before" in caplog.text
    truth["images"][0] |= {"height": 1000}
    with pytest.raises(InputError, match=r"160x120 in the run, 160x1000 in the ground truth.*none is left"):
        compare(tmp_path / "all", masks, truth)


def test_boxes_alone(tmp_path, caplog):
    truth = coco_file([[annotation(LEFT, segmentation=None), annotation(RIGHT, segmentation=None, area=None)]])
    with caplog.at_level(logging.WARNING):
        found = compare(tmp_path, [[stored(LEFT), stored(RIGHT)]], truth)
    assert list(found.figures) == ["box"]
    assert found.figures["box"]["AP"] == 1
    assert "has boxes alone" in caplog.text
    with pytest.raises(InputError, match="no masks of the images that the run has too"):
        compare(tmp_path / "again", [[stored(LEFT)]], truth, iou=("mask", "boundary"))


def test_an_object_without_a_mask_counts_for_boxes(tmp_path, caplog):
    truth = coco_file([[annotation(LEFT), annotation(RIGHT, segmentation=None)]])
    with caplog.at_level(logging.WARNING):
        found = compare(tmp_path, [[stored(LEFT)]], truth)
    assert found.figures["mask"]["AR@10"] == 1
    assert found.figures["box"]["AR@10"] == 0.5
    assert "1 annotations have no mask: they count for boxes alone" in caplog.text


def test_unusable_annotations_are_left_out_and_named(tmp_path, caplog):
    truth = coco_file([[annotation(LEFT), annotation(RIGHT, segmentation=[[1, 2, 3]], bbox=None)]])
    with caplog.at_level(logging.WARNING):
        found = compare(tmp_path, [[stored(LEFT)]], truth)
    assert (found.counts.num_objects, found.counts.num_unusable) == (1, 1)
    assert "1 annotations are left out, such as 2 of '0000.jpg': its polygons" in caplog.text


@pytest.mark.parametrize("category_id", [5, "x"])
def test_objects_without_a_listed_category_count_where_categories_are_not_compared(tmp_path, caplog, category_id):
    truth = coco_file([[annotation(LEFT), annotation(RIGHT, category_id)]])
    found = compare(tmp_path / "agnostic", [[stored(LEFT), stored(RIGHT)]], truth)
    assert (found.counts.num_objects, found.figures["mask"]["AP"]) == (2, pytest.approx(1))
    assert not caplog.records
    found = compare(tmp_path / "by category", [[prompted(LEFT), stored(RIGHT)]], truth)
    assert (found.counts.num_objects, found.counts.num_masks) == (1, 1)
    assert "1 annotations name no category of" in caplog.text


def test_a_name_that_no_file_can_have_is_passed_over(tmp_path):
    truth = coco_file([[annotation(LEFT)], [annotation(LEFT)]])
    truth["images"][1]["file_name"] = "\ud800.jpg"
    found = compare(tmp_path, [[stored(LEFT)]], truth)
    assert (found.counts.num_only_in_truth, found.counts.num_objects) == (1, 1)


def test_categories_without_objects_are_not_accumulated(tmp_path, monkeypatch):
    asked = []
    accumulate = CocoEvaluator.accumulate

    def watched(evaluator, categories):
        asked.append(list(categories))
        return accumulate(evaluator, categories)

    monkeypatch.setattr(CocoEvaluator, "accumulate", watched)
    truth = coco_file([[annotation(RIGHT, 3), annotation(LEFT, 1)]], categories=("cat", "dog", "cow", "cup"))
    masks = [[prompted(LEFT, category_id=1), prompted(RIGHT, category_id=3), prompted(LEFT, category_id=4)]]
    found = compare(tmp_path, masks, truth, iou=("mask",))
    assert asked == [[1, 3]]
    assert [each["name"] for each in found.by_category] == ["cat", "cow"]
    assert found.figures["mask"]["AP"] == pytest.approx(1)


def test_a_selection_is_compared(tmp_path):
    masks = [[stored(LEFT, 0.9), stored(BIG, 0.95)]]
    truth = coco_file([[annotation(LEFT)]])
    found = compare(tmp_path, masks, truth, MaskSelection(max_area_share=0.1))
    assert found.counts.num_masks == 1
    assert found.selection == {"max_area_share": 0.1}
    assert found.figures["mask"]["AP"] == 1


def test_rows_of_images_that_are_left_out_by_the_selection_are_not_compared(tmp_path):
    truth = coco_file([[annotation(LEFT)], [annotation(LEFT)]])
    output = saved_run(tmp_path / "run", [[stored(LEFT)], []])
    found = compare_run(output, tmp_path, truth, MaskSelection(include=("*0000.jpg",)))
    assert found.figures["mask"]["AP"] == 1
    assert (found.counts.num_only_in_truth, found.counts.num_only_in_run) == (1, 0)


def test_ranking_decides_average_precision(tmp_path):
    masks = [
        [
            prompted(LEFT, 0.9, stability_score=0.7, score=0.2),
            prompted(BIG, 0.8, stability_score=0.95, score=0.9, prompt_id=1),
        ]
    ]
    truth = coco_file([[annotation(LEFT)]])
    output = saved_run(tmp_path / "run", masks)
    first = {"predicted_iou": LEFT, "stability_score": BIG, "mean": BIG, "score": BIG, "auto": BIG}
    for rank_by, best in first.items():
        found = compare_run(output, tmp_path, truth, class_agnostic=True, rank_by=rank_by)
        assert found.figures["mask"]["AP"] == pytest.approx(1 if best is LEFT else 0.5), rank_by


def test_nothing_in_common_is_an_error(tmp_path):
    truth = coco_file([[annotation(LEFT)]])
    truth["images"][0]["file_name"] = "else.png"
    with pytest.raises(InputError, match=r"no image in common: the run has 'file:///in/0000.jpg', .* 'else.png'"):
        compare(tmp_path, [[stored(LEFT)]], truth)


def test_ground_truth_of_other_images_alone_is_an_error(tmp_path):
    truth = coco_file([[], [annotation(LEFT)]])
    with pytest.raises(InputError, match=r"no objects in .* for the 1 images that the run has too"):
        compare(tmp_path, [[stored(LEFT)]], truth)


def test_images_of_the_run_that_come_from_the_same_file_are_found_by_their_ids(tmp_path):
    """The URIs of the second say nothing: they are those of an archive."""
    truth = coco_file([[annotation(LEFT)], [annotation(RIGHT)]])
    rows = [
        row(number, 1, masks=[stored(each)], height=HEIGHT, width=WIDTH, extra=json.dumps({"coco_image_id": coco_id}))
        for number, (each, coco_id) in enumerate([(RIGHT, 12), (LEFT, 11)])
    ]
    saved_rows(tmp_path / "run", rows)
    for image in truth["images"]:
        del image["file_name"]
    assert compare_run(str(tmp_path / "run"), tmp_path, truth).figures["mask"]["AP"] == 1


def test_ids_win_over_names_where_the_run_was_planned_from_the_same_file(tmp_path):
    truth = coco_file([[annotation(LEFT)], [annotation(RIGHT)]])
    for image, name in zip(truth["images"], ("y/same.jpg", "x/same.jpg"), strict=True):  # each that of the other
        image["file_name"] = name
    uris = ["file:///in/x/same.jpg", "file:///in/y/same.jpg"]
    rows = [
        row(number, 1, masks=[stored(each)], height=HEIGHT, width=WIDTH, uri=uris[number], extra=extra)
        for number, (each, extra) in enumerate([(LEFT, '{"coco_image_id": 11}'), (RIGHT, '{"coco_image_id": 12}')])
    ]
    output, place = str(tmp_path / "run"), str(tmp_path / "truth.json")
    write_plan(output, place, source_table([SourceObject(uri, 1, None) for uri in uris]), {})
    take_over(output).commit([shard(output, rows)])
    assert compare_run(output, tmp_path, truth).figures["mask"]["AP"] == 1


@given(st.randoms(use_true_random=False))
@settings(max_examples=5, deadline=None)
def test_the_order_of_the_file_changes_nothing(tmp_path_factory, random_case, random):
    folder = tmp_path_factory.mktemp("order")
    truth, masks = random_case
    file = coco_file(truth, ("cat", "dog", "cow"))
    expected = compare(folder, masks, file, iou=("mask",))
    for name in ("images", "annotations", "categories"):
        random.shuffle(file[name])
    found = compare_run(str(folder / "run"), folder, file, iou=("mask",))
    assert found.figures["mask"] == pytest.approx(expected.figures["mask"], abs=1e-12)
    assert found.counts == expected.counts
