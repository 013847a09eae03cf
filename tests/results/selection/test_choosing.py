"""Which masks are chosen, against the same rules written out mask by mask."""

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sam_pipeline.masks.runs import rle
from sam_pipeline.results.selection.choosing import choose_masks, keep_masks
from sam_pipeline.results.selection.containment import LEAST_SHARE
from sam_pipeline.results.selection.mask_selection import MaskSelection
from sam_pipeline.storage.tables.schema import MASKS_SCHEMA
from tests.storage.runs import HEIGHT, WIDTH, failed_row, mask, row

SCORES = st.sampled_from([0.0, 0.5, 0.7, 0.88, 0.9, 0.95, 1.0])


@st.composite
def masks(draw):
    found = mask(draw(st.integers(0, 99))) | {
        "predicted_iou": float(np.float32(draw(SCORES | st.just(-0.01)))),
        "stability_score": float(np.float32(draw(SCORES))),
    }
    if draw(st.booleans()):
        x, y, w, h = found["bbox"]
        found |= {
            "prompt_id": draw(st.integers(0, 9)),
            "prompt_box": draw(st.sampled_from([None, [x, y, w + 1, h + 1], [x, y, w + 3, h + 1], [0, 0, 1, 1]])),
            "category_id": draw(st.sampled_from([None, 1, 2])),
            "score": draw(st.sampled_from([None, 0.3, 0.8])),
        }
    return found


ROWS = st.lists(st.lists(masks(), max_size=6), min_size=1, max_size=4)
SELECTIONS = st.builds(
    MaskSelection,
    pred_iou_thresh=st.none() | SCORES,
    stability_score_thresh=st.none() | SCORES,
    box_nms_thresh=st.none() | st.sampled_from([0.0, 0.3, 0.7, 1.0]),
    min_score=st.none() | st.just(0.5),
    min_area=st.none() | st.integers(0, 40),
    max_area_share=st.none() | st.sampled_from([0.05, 0.1, 0.2]),
    max_masks=st.none() | st.integers(1, 4),
    min_box_iou=st.none() | st.sampled_from([0.5, 1.0]),
    category_ids=st.sampled_from([(), (1,), (1, 2)]),
    source=st.sampled_from(["all", "grid", "prompts"]),
    drop_contained=st.sampled_from(["none", "outer", "parts"]),
    drop_border=st.booleans(),
)


def table(images):
    rows = [row(number, len(some), masks=some) for number, some in enumerate(images)]
    return pa.Table.from_pylist([*rows, failed_row(len(rows))], schema=MASKS_SCHEMA)


def box_iou(first, second):
    width = min(first[0] + first[2], second[0] + second[2]) - max(first[0], second[0])
    height = min(first[1] + first[3], second[1] + second[3]) - max(first[1], second[1])
    both = max(0, width) * max(0, height)
    union = first[2] * first[3] + second[2] * second[3] - both
    return both / union if union else math.nan


def is_wanted(m, s):
    x, y, w, h = m["bbox"]
    return (
        (not s.pred_iou_thresh or m["predicted_iou"] > np.float32(s.pred_iou_thresh))
        and (not s.stability_score_thresh or m["stability_score"] >= np.float32(s.stability_score_thresh))
        and (s.min_score is None or (m["score"] is not None and m["score"] >= s.min_score))
        and (s.min_area is None or m["area"] >= s.min_area)
        and (s.max_area_share is None or m["area"] <= s.max_area_share * HEIGHT * WIDTH)
        and (
            s.min_box_iou is None
            or m["prompt_box"] is None
            or box_iou([x, y, w + 1, h + 1], m["prompt_box"]) >= s.min_box_iou
        )
        and (not s.category_ids or m["category_id"] in s.category_ids)
        and (s.source == "all" or (m["prompt_id"] is not None) == (s.source == "prompts"))
        and not (s.drop_border and (x == 0 or y == 0 or x + w == WIDTH - 1 or y + h == HEIGHT - 1))
    )


def lies_in(first, second):
    pixels, others = (rle.decode(m["segmentation"]) for m in (first, second))
    return (pixels & others).sum() / pixels.sum() >= LEAST_SHARE


def wanted_of_image(some, s):
    left = [m for m in some if is_wanted(m, s)]
    if s.box_nms_thresh is not None:
        kept = []
        for m in sorted(left, key=lambda m: -m["predicted_iou"]):
            # As in torchvision, the IoU is float32 and the threshold is not: 0.3 is below itself.
            ious = [float(np.float32(box_iou(other["bbox"], m["bbox"]))) for other in kept]
            if not any(iou > s.box_nms_thresh for iou in ious):
                kept.append(m)
        left = [m for m in left if any(m is other for other in kept)]
    if s.drop_contained != "none":
        pairs = {
            (i, j)
            for i, m in enumerate(left)
            for j, other in enumerate(left)
            if lies_in(m, other) and (m["area"], -i) < (other["area"], -j)
        }
        dropped = {i if s.drop_contained == "outer" else j for i, j in pairs}
        left = [m for i, m in enumerate(left) if i not in dropped]
    if s.max_masks is not None:
        best = sorted(range(len(left)), key=lambda i: -left[i]["predicted_iou"])[: s.max_masks]
        left = [m for i, m in enumerate(left) if i in best]
    return left


BOXES_OF_IOU_03 = (([1, 4, 5, 2], 0.9), ([2, 4, 3, 1], 0.8))
"""xywh, and predicted IoU: of the ten pixels of one box the other has three."""


def chosen(rows, selection):
    """The masks that are left of each row."""
    return keep_masks(rows["masks"], choose_masks(rows, selection)).to_pylist()


def test_an_iou_that_equals_the_threshold_is_rounded_as_in_torchvision():
    outer, inner = (row(0, 1)["masks"][0] | {"bbox": box, "predicted_iou": iou} for box, iou in BOXES_OF_IOU_03)
    rows, selection = table([[outer, inner]]), MaskSelection(box_nms_thresh=0.3)
    assert chosen(rows, selection)[0] == [rows["masks"][0].as_py()[0]]


@given(ROWS, SELECTIONS)
@settings(deadline=None)  # the first NMS is compiled
def test_masks_are_chosen_by_the_rules(images, selection):
    rows = table(images)
    assert chosen(rows, selection) == [wanted_of_image(masks, selection) for masks in rows["masks"].to_pylist()]


@pytest.mark.parametrize("part", [slice(1, 3), slice(0, 0)])
def test_a_part_of_a_table_is_taken_for_what_it_is(part):
    rows = table([[mask(1)], [mask(2), mask(3)], [mask(4)]]).slice(part.start, part.stop - part.start)
    assert chosen(rows, MaskSelection(min_area=1)) == rows["masks"].to_pylist()
