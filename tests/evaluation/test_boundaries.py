"""Boundaries against a plain computation of distances, and against the library's own."""

import math

import numpy as np
import pytest
from faster_coco_eval.core import mask as library
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from sam_pipeline.evaluation.boundaries import boundary, boundary_ious


def encoded(pixels):
    return coco_mask.encode(np.asfortranarray(pixels.astype(np.uint8)))


def plain_boundary(pixels):
    """Pixels with a pixel outside, or beyond the image, at most so many steps away in each direction."""
    height, width = pixels.shape
    steps = max(1, round(0.02 * math.hypot(height, width)))
    padded = np.pad(pixels, steps)
    near = [
        ~padded[steps + dy : steps + dy + height, steps + dx : steps + dx + width]
        for dy in range(-steps, steps + 1)
        for dx in range(-steps, steps + 1)
    ]
    return pixels & np.any(near, axis=0)


def random_masks(seed, num_masks, height=90, width=130):
    generator = np.random.default_rng(seed)
    masks = []
    for _ in range(num_masks):
        x, y, w, h = (int(generator.integers(*limits)) for limits in ((-20, 120), (-20, 80), (1, 60), (1, 60)))
        pixels = np.zeros((height, width), bool)
        pixels[max(0, y) : max(0, y + h), max(0, x) : max(0, x + w)] = True
        pixels &= generator.random((height, width)) > generator.choice([0, 0.01, 0.4])
        masks.append(pixels)
    return masks


@given(st.integers(0, 2**32))
@settings(max_examples=30, deadline=None)
def test_it_is_a_band_within_the_mask(seed):
    (pixels,) = random_masks(seed, 1)
    np.testing.assert_array_equal(coco_mask.decode(boundary(encoded(pixels))), plain_boundary(pixels))


@pytest.mark.parametrize("size", [(1, 1), (7, 3), (240, 320)])
def test_an_image_full_of_mask_has_a_frame(size):
    full = np.ones(size, bool)
    np.testing.assert_array_equal(coco_mask.decode(boundary(encoded(full))), plain_boundary(full))


def test_it_is_that_of_the_library():
    for pixels in random_masks(5, 20):
        assert boundary(encoded(pixels))["counts"] == library.rleToBoundary(encoded(pixels), 0.02)["counts"]


@given(st.integers(0, 2**32))
@settings(max_examples=30, deadline=None)
def test_what_is_left_out_cannot_matter(seed):
    masks, objects = random_masks(seed, 9), [each for each in random_masks(seed + 1, 4) if each.any()]
    objects += [masks[0]] if masks[0].any() else []
    masks = [encoded(each) for each in masks]
    objects = [encoded(each) for each in objects]
    no_crowds = [0] * len(objects)
    ious = np.asarray(coco_mask.iou(masks, objects, no_crowds)).reshape(len(masks), len(objects))
    bands = coco_mask.iou([*map(boundary, masks)], [*map(boundary, objects)], no_crowds)
    whole = np.minimum(ious, np.asarray(bands).reshape(ious.shape))
    found = boundary_ious(ious, masks, objects)
    np.testing.assert_array_equal(np.where(whole >= 0.5, whole, 0), np.where(found >= 0.5, found, 0))
    np.testing.assert_array_equal(whole.max(axis=0, initial=0), found.max(axis=0, initial=0))
