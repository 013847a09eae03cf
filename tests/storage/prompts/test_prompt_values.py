import math
from decimal import Decimal

import numpy as np
import pytest

from sam_pipeline.storage.inputs.file_numbers import whole_number
from sam_pipeline.storage.prompts.prompt_values import prompt_row, region_row

LOGITS = np.random.default_rng(0).normal(size=(256, 256)).astype("<f4")
MASK_ERROR = "mask_input must be 256x256 numbers"


def prompt(bbox_format="xywh", **fields):
    return prompt_row("a", 3, fields, bbox_format)


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (7, 7),
        (7.0, 7),
        (-1, -1),
        (2**63 - 1, 2**63 - 1),
        (-(2**63), -(2**63)),
        (2**63, None),
        (float(2**63), None),
        (10**400, None),
        (7.5, None),
        (math.nan, None),
        (math.inf, None),
        (True, None),
        (None, None),
        ("7", None),
    ],
)
def test_whole_numbers_may_be_written_as_floats(value, number):
    assert whole_number(value) == number


@pytest.mark.parametrize(
    ("value", "category_id"),
    [
        *[(7, 7), (7.0, 7), ("7", 7), (" -7.0 ", -7), (Decimal("7.00"), 7), (str(2**63 - 1), 2**63 - 1), (0, 0)],
        *[(None, None), (math.nan, None), ("", None)],
    ],
)
def test_a_category_may_be_a_number_in_text_and_missing(value, category_id):
    row = prompt(bbox=[1, 2, 3, 4], category_id=value)
    assert (row["category_id"], row.get("error")) == (category_id, None)


@pytest.mark.parametrize(
    "value", ["dog", "7.5", 7.5, 2**63, 10**400, "9" * 5000, math.inf, True, [7], "1_0", "٣", "nan", "0x1"]
)
def test_another_category_is_an_error_and_never_nothing(value):
    row = prompt(bbox=[1, 2, 3, 4], category_id=value, score=0.5)
    assert row["error"].startswith("category_id must be a whole number, is ")
    assert len(row["error"]) < 90
    assert (row["category_id"], row["score"], row["box_xyxy"]) == (None, 0.5, None)


@pytest.mark.parametrize(
    ("value", "score"),
    [
        *[(1, 1.0), (0.5, 0.5), ("0.9", 0.9), (" 9e-1\n", 0.9), (".5", 0.5), ("1", 1.0), (Decimal("0.25"), 0.25)],
        *[(math.nan, None), (None, None), (" ", None)],
    ],
)
def test_a_score_may_be_a_number_in_text_and_missing(value, score):
    row = prompt(bbox=[1, 2, 3, 4], score=value)
    assert (row["score"], row.get("error")) == (score, None)


@pytest.mark.parametrize("value", ["high", "90%", "0,9", math.inf, "inf", "1e999", True, [0.5], {"value": 0.5}, b"0.5"])
def test_another_score_is_an_error_and_never_nothing(value):
    row = prompt(bbox=[1, 2, 3, 4], score=value, category_id=3)
    assert row["error"].startswith("score must be a number, is ")
    assert (row["score"], row["box_xyxy"]) == (None, None)


@pytest.mark.parametrize(("bbox_format", "box"), [("xywh", [10, 20, 13, 24]), ("xyxy", [10, 20, 3, 4])])
def test_boxes_are_put_in_order_and_not_clipped(bbox_format, box):
    assert prompt(bbox_format, bbox=[10, 20, 3, 4])["box_xyxy"] == box


def test_a_corner_beyond_all_numbers_is_an_error():
    row = prompt(bbox=[1e308, 0, 1e308, 1])
    assert row["error"] == "bbox holds a number that is not finite"
    assert row["box_xyxy"] is None
    assert prompt("xyxy", bbox=[1e308, 0, 1e308, 1])["box_xyxy"] == [1e308, 0, 1e308, 1]


def test_lists_without_anything_in_them_are_nothing():
    row = prompt(bbox=[1, 2, 3, 4], point_coords=[], point_labels=[])
    assert (row["point_coords"], row["point_labels"], row.get("error")) == (None, None, None)
    assert prompt(point_coords=[[1, 2]], point_labels=[])["error"] == "1 points come with 0 labels"


def test_labels_may_be_floats_and_nothing_else():
    assert prompt(point_coords=[[1, 2], [3, 4]], point_labels=[1.0, 0])["point_labels"] == [1, 0]
    for label in (-1, 2, 0.5, True, "1", None):
        row = prompt(point_coords=[[1, 2]], point_labels=[label], category_id=4)
        assert row["error"].startswith("point_labels must be 1")
        assert (row["point_coords"], row["point_labels"], row["category_id"]) == (None, None, 4)


@pytest.mark.parametrize(
    "mask",
    [LOGITS, LOGITS[None], LOGITS.reshape(-1), LOGITS.tobytes(), LOGITS.tolist(), LOGITS.astype(float)],
    ids=["array", "as the predictor takes it", "flat", "bytes", "lists", "double"],
)
def test_masks_are_stored_as_float32(mask):
    assert prompt(mask_input=mask)["mask_input"] == LOGITS.tobytes()


def test_whole_numbers_are_logits_too():
    mask = np.arange(65_536).reshape(256, 256) - 30_000
    assert prompt(mask_input=mask.tolist())["mask_input"] == mask.astype("<f4").tobytes()


@pytest.mark.parametrize(
    ("mask", "error"),
    [
        (LOGITS.reshape(128, 512), MASK_ERROR),
        (LOGITS[:255], MASK_ERROR),
        (LOGITS.tobytes()[:-1], MASK_ERROR),
        (LOGITS.astype(bool).tolist(), MASK_ERROR),
        (LOGITS.astype(str).tolist(), MASK_ERROR),
        ([[0.0] * 256] * 255 + [[0.0]], MASK_ERROR),
        ([[None] * 256] * 256, MASK_ERROR),
        ({}, MASK_ERROR),
        (1.0, MASK_ERROR),
        (np.where(LOGITS > 3, np.nan, LOGITS), "mask_input holds a number that is not finite"),
        ([[1e300] * 256] * 256, "mask_input holds a number that is not finite"),
    ],
)
def test_other_masks_are_errors(mask, error):
    row = prompt(mask_input=mask)
    assert (row["error"], row["mask_input"]) == (error, None)


def test_one_fault_takes_all_that_describes_the_object():
    row = prompt(bbox=[1, 2, 3, 4], point_coords=[[1, 2]], mask_input=b"", score=0.5)
    assert row["error"] == MASK_ERROR
    assert [row[name] for name in ("box_xyxy", "point_coords", "point_labels", "mask_input")] == [None] * 4
    assert (row["key"], row["prompt_id"], row["score"]) == ("a", 3, 0.5)


@pytest.mark.parametrize(
    ("polygon", "error"),
    [
        ([[0, 0], [1, 0]], "polygon must be [[x, y], …], 3 of them or more"),
        ([[0, 0], [1, 0], [1]], "polygon must be [[x, y], …], 3 of them or more"),
        ([[0, 0], [1, 0], [1, math.inf]], "polygon holds a number that is not finite"),
        ([], None),
        (None, None),
    ],
)
def test_a_wrong_polygon_is_not_replaced_by_the_box_but_a_missing_one_is(polygon, error):
    row = region_row("a", 0, {"polygon": polygon, "bbox": [1, 2, 3, 4]}, "xywh")
    assert row.get("error") == error
    assert row["box_xyxy"] == ([1, 2, 4, 6] if error is None else None)
