"""What is read a column at a time is what prompt_values makes of each row."""

import itertools
import math

import numpy as np
import pyarrow as pa
import pytest

from sam_pipeline.storage.prompts.box_columns import box_prompts
from sam_pipeline.storage.prompts.prompt_rows import KEYED_PROMPTS
from sam_pipeline.storage.prompts.prompt_values import prompt_row

BOXES = [[1.0, 2.0, 3.0, 4.0], [-1.5, 0.0, 0.25, 1e300], [0.0, 0.0, 0.0, 0.0]]
FLOATS = (pa.float64(), pa.float32(), pa.float16())


def compare(columns, bbox_format="xywh"):
    """The numbers of the rows that were not taken."""
    batch = pa.record_batch(columns)
    batch = batch.append_column("is_image_id", pa.array([number % 2 == 0 for number in range(batch.num_rows)]))
    found, others = box_prompts(batch, 100, bbox_format)
    assert found.schema == KEYED_PROMPTS
    found.validate(full=True)
    taken = np.setdiff1d(np.arange(batch.num_rows), others)
    rows = batch.to_pylist()
    expected = [
        prompt_row(rows[number]["key"], 100 + int(number), rows[number], bbox_format) | {"is_image_id": number % 2 == 0}
        for number in taken
    ]
    assert found.to_pylist() == pa.Table.from_pylist(expected, schema=KEYED_PROMPTS).to_pylist()
    return others.tolist()


def with_boxes(boxes, **columns):
    return {"key": pa.array([f"{number}.jpg" for number in range(len(boxes))]), "bbox": boxes, **columns}


@pytest.mark.parametrize("bbox_format", ["xywh", "xyxy"])
@pytest.mark.parametrize(
    "kind",
    [
        *(pa.list_(kind) for kind in FLOATS),
        *(pa.list_(kind, 4) for kind in FLOATS),
        pa.large_list(pa.float64()),
        pa.list_(pa.int64()),
        pa.list_(pa.uint8()),
    ],
    ids=str,
)
def test_boxes_of_every_type(kind, bbox_format):
    boxes = pa.array([[1, 2, 3, 4], [0, 0, 0, 0], [200, 100, 5, 6]], kind)
    assert compare(with_boxes(boxes), bbox_format) == []
    assert compare(with_boxes(boxes.slice(1)), bbox_format) == []


def test_whole_numbers_that_no_float_holds_are_rounded():
    boxes = pa.array([[2**53 + 1, 0, 1, 1], [2**62 + 1, 1, 2, 3]], pa.list_(pa.int64()))
    assert compare(with_boxes(boxes), "xyxy") == []


@pytest.mark.parametrize("kind", [pa.list_(pa.float64()), pa.large_list(pa.float64())], ids=str)
def test_what_is_no_right_box_is_left(kind):
    wrong = [None, [], [1.0, 2.0, 3.0], [1.0] * 5, [1.0, None, 3.0, 4.0], [math.nan] * 4, [0, 0, math.inf, 1]]
    wrong.append([1e308, 0.0, 1e308, 1.0])
    boxes = list(itertools.chain(*([box, BOXES[0]] for box in wrong)))
    assert compare(with_boxes(pa.array(boxes, kind))) == list(range(0, len(boxes), 2))
    fixed = [box for box in boxes if box is None or len(box) == 4]
    numbers = [number for number, box in enumerate(fixed) if box != BOXES[0]]
    assert compare(with_boxes(pa.array(fixed, pa.list_(pa.float64(), 4)))) == numbers


@pytest.mark.parametrize(
    "boxes", [["1 2 3 4"], [[["1"]]], [{"x": 1}], pa.nulls(1), [["1", "2", "3", "4"]], [[True, True, True, True]]]
)
def test_columns_that_hold_no_boxes_are_left(boxes):
    assert compare(with_boxes(pa.array(boxes))) == [0]


def test_without_the_column_nothing_is_taken():
    assert compare({"key": pa.array(["a", "b"])}) == [0, 1]


def test_points_labels_and_masks_are_left_even_if_empty():
    columns = {
        "point_coords": pa.array([[[1.0, 2.0]], None, None, [], None]),
        "point_labels": pa.array([None, [1], None, None, None], pa.list_(pa.int64())),
        "mask_input": pa.array([None, None, b"x", None, None]),
    }
    assert compare(with_boxes(pa.array([BOXES[0]] * 5), **columns)) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("category_ids", "others"),
    [
        (pa.array([1, None, -5], pa.int8()), []),
        (pa.array([2**63 - 1, 2**63, None], pa.uint64()), [1]),
        (pa.array([1.0, None, math.nan]), []),
        (pa.array([2.5, 2.0**63, -(2.0**63)]), [0, 1]),
        (pa.array([math.inf, -math.inf, 3.0], pa.float32()), [0, 1]),
        (pa.array(["1", None, "dog"]), [0, 2]),
        (pa.array([True, False, None]), [0, 1]),
        (pa.nulls(3), []),
    ],
    ids=lambda values: str(getattr(values, "type", "")),
)
def test_categories_of_every_type_and_those_that_are_none_are_left(category_ids, others):
    assert compare(with_boxes(pa.array(BOXES), category_id=category_ids)) == others


@pytest.mark.parametrize(
    ("scores", "others"),
    [
        (pa.array([0.5, None, math.nan]), []),
        (pa.array([math.inf, -math.inf, 1e300]), [0, 1]),
        (pa.array([0.1, 0.5, None], pa.float32()), []),
        (pa.array([1, 0, None], pa.int32()), []),
        (pa.array(["0.5", None, "x"]), [0, 2]),
        (pa.array([True, False, None]), [0, 1]),
        (pa.nulls(3), []),
    ],
    ids=lambda values: str(getattr(values, "type", "")),
)
def test_scores_of_every_type_and_those_that_are_none_are_left(scores, others):
    assert compare(with_boxes(pa.array(BOXES), score=scores)) == others


def test_columns_are_cut_where_rows_are_left():
    boxes = pa.array([[1.0], BOXES[0], None, BOXES[1]])
    columns = {"score": pa.array([0.1, 0.2, 0.3, 0.4]), "category_id": pa.array([1, 2, 3, 4])}
    assert compare(with_boxes(boxes, **columns)) == [0, 2]
