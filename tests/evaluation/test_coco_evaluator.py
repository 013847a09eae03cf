"""What average precision and recall must obey, and the library's own boundary figures as the oracle of ours."""

import pickle
import sys

import numpy as np
import pytest
from faster_coco_eval import COCO, COCOeval_faster
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from sam_pipeline.errors import ConfigError
from sam_pipeline.evaluation.coco_evaluator import CocoEvaluator, check_installed
from sam_pipeline.evaluation.image_pair import ImagePair
from sam_pipeline.evaluation.settings import IOU_KINDS

SIZE = (100, 120)


def rle(x, y, w, h):
    pixels = np.zeros(SIZE, np.uint8, order="F")
    pixels[y : y + h, x : x + w] = 1
    pixels[y + h // 2, x + w // 2] = 0  # no box, and no whole one
    return coco_mask.encode(pixels)


def annotated(encoded, **changes):
    area, bbox = int(coco_mask.area(encoded)), coco_mask.toBbox(encoded).tolist()
    return {"category_id": 1, "iscrowd": 0, "area": area, "bbox": bbox, "segmentation": encoded} | changes


def ranked(encoded, score, **changes):
    found = annotated(encoded, score=score, **changes)
    del found["iscrowd"]
    return found


SHAPES = st.builds(rle, st.integers(0, 80), st.integers(0, 60), st.integers(3, 70), st.integers(3, 60))
SCORES = st.integers(0, 5).map(lambda tenths: tenths / 10)
CATEGORIES = st.integers(1, 2)
OBJECTS = st.builds(annotated, SHAPES, category_id=CATEGORIES, iscrowd=st.sampled_from([0, 0, 0, 1]))
MASKS = st.builds(ranked, SHAPES, SCORES, category_id=CATEGORIES)


@st.composite
def batches(draw):
    """Images with objects, and masks of which some are those objects, exactly or moved by nothing."""
    pairs = []
    for number in range(1, draw(st.integers(1, 4)) + 1):
        objects = draw(st.lists(OBJECTS, max_size=4))
        masks = draw(st.lists(MASKS, max_size=4))
        found = [each for each in objects if draw(st.booleans())]
        masks += [ranked(each["segmentation"], draw(SCORES), category_id=each["category_id"]) for each in found]
        pairs.append(ImagePair(number, SIZE, objects, masks))
    return pairs


def evaluated(kind, pairs, at_once=100):
    evaluator = CocoEvaluator(kind)
    for first in range(0, len(pairs), at_once):
        evaluator.add(pairs[first : first + at_once])
    return evaluator.accumulate([1, 2])


@pytest.mark.parametrize("kind", IOU_KINDS)
@given(batches())
@settings(max_examples=15, deadline=None)
def test_perfect_masks_find_everything(kind, pairs):
    perfect = [
        ImagePair(
            pair.number,
            SIZE,
            pair.truth,
            [ranked(each["segmentation"], 0.5, category_id=each["category_id"]) for each in pair.truth],
        )
        for pair in pairs
    ]
    precision, recall = evaluated(kind, perfect)
    # At most one mask an image, and at most ten, need not be enough.
    assert set(np.unique(precision[..., 0, 2:])) <= {-1, 1}
    assert set(np.unique(recall[..., 0, 2:])) <= {-1, 1}


@pytest.mark.parametrize("kind", IOU_KINDS)
@given(batches(), st.randoms(use_true_random=False), st.integers(1, 3))
@settings(max_examples=15, deadline=None)
def test_the_order_of_images_and_the_size_of_batches_change_nothing(kind, pairs, random, at_once):
    expected = evaluated(kind, pairs)
    random.shuffle(pairs)
    for ours, theirs in zip(evaluated(kind, pairs, at_once), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("kind", IOU_KINDS)
@given(batches(), SHAPES)
@settings(max_examples=15, deadline=None)
def test_one_more_mask_of_the_lowest_score_raises_no_precision_where_it_is_wrong(kind, pairs, shape):
    precision, _ = evaluated(kind, pairs)
    # In an image without objects it cannot be right.
    pairs.append(ImagePair(len(pairs) + 1, SIZE, [], [ranked(shape, -1.0)]))
    with_one_more, _ = evaluated(kind, pairs)
    assert (with_one_more <= precision).all()


@given(batches())
@settings(max_examples=25, deadline=None)
def test_boundary_figures_are_those_of_the_library(pairs):
    theirs = COCOeval_faster(library_dataset(pairs, "truth"), library_dataset(pairs, "masks"), iouType="boundary")
    theirs.params.maxDets = [1, 10, 100, 1000]
    theirs.evaluate()
    theirs.accumulate()
    precision, recall = evaluated("boundary", pairs)
    np.testing.assert_allclose(precision, theirs.eval["precision"], atol=1e-12)
    np.testing.assert_allclose(recall, theirs.eval["recall"], atol=1e-12)


def library_dataset(pairs, side):
    dataset = COCO()
    numbered = [(pair.number, each) for pair in pairs for each in getattr(pair, side)]
    dataset.dataset = {
        "images": [{"id": pair.number, "height": SIZE[0], "width": SIZE[1]} for pair in pairs],
        "annotations": [{**each, "id": place, "image_id": number} for place, (number, each) in enumerate(numbered, 1)],
        "categories": [{"id": number, "name": str(number)} for number in (1, 2)],
    }
    dataset.createIndex()
    return dataset


def test_a_category_that_was_never_there_has_no_figures():
    precision, recall = CocoEvaluator("mask").accumulate([1, 7])
    assert set(np.unique(precision)) == set(np.unique(recall)) == {-1}


@pytest.mark.parametrize(("num_masks", "most_bytes"), [(1000, 60_000), (1, 250)])
def test_what_is_kept_of_an_image_is_small(num_masks, most_bytes):
    evaluator = CocoEvaluator("mask")
    shape = rle(10, 10, 30, 30)
    masks = [ranked(shape, score) for score in np.random.default_rng(0).random(num_masks).tolist()]
    evaluator.add([ImagePair(number, SIZE, [annotated(shape)], masks) for number in range(1, 33)])
    (found,) = evaluator._found.values()
    assert len(found._recent) == 0
    assert len(pickle.dumps(found._packed)) / 32 < most_bytes


def test_a_missing_library_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(ConfigError, match=r"needs faster-coco-eval .*pip install 'sam-pipeline\[eval\]'"):
        check_installed()
