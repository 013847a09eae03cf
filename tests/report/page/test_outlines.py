"""Outlines, drawn again, against the masks that they outline."""

import re

import cv2
import numpy as np
import pytest

from sam_pipeline.masks.runs import rle
from sam_pipeline.masks.runs.runs import Runs
from sam_pipeline.report.page.outlines import outline


def stored(pixels):
    return {"segmentation": rle.encode(Runs.of_mask(pixels))}


def drawn(path, size_hw):
    """Fill a path by the rule evenodd, pixel by pixel."""
    polygons = []
    for part in re.findall(r"[^z]+z", path):
        if box := re.fullmatch(r"M(\d+) (\d+)h(\d+)v(\d+)h-\d+z", part):
            x, y, w, h = map(int, box.groups())
            polygons.append(np.array([(x, y), (x + w, y), (x + w, y + h), (x, y + h)]))
            continue
        start, steps = re.fullmatch(r"M(\d+ \d+)l([-\d ]+)z", part).groups()
        moves = [tuple(map(int, start.split())), *np.array(steps.split(), int).reshape(-1, 2)]
        polygons.append(np.cumsum(np.array(moves), axis=0))
    filled = np.zeros(size_hw, bool)
    # Eight times as large, with pixels' middles off the lines, so that OpenCV's fat edges do not matter.
    for polygon in polygons:
        large = np.zeros((size_hw[0] * 8, size_hw[1] * 8), np.uint8)
        cv2.fillPoly(large, [polygon.astype(np.int32) * 8], 1)
        filled ^= large[4::8, 4::8].astype(bool)
    return filled


def iou(one, other):
    return (one & other).sum() / (one | other).sum()


def shapes():
    empty = np.zeros((40, 60), bool)
    for name, draw in {
        "rectangle": [(slice(3, 20), slice(5, 50))],
        "pixel": [(7, 9)],
        "line": [(5, slice(2, 40))],
        "two parts": [(slice(0, 10), slice(0, 10)), (slice(20, 40), slice(30, 60))],
        "whole": [(slice(0, 40), slice(0, 60))],
        "diagonal": [(i, i) for i in range(20)],
    }.items():
        pixels = empty.copy()
        for place in draw:
            pixels[place] = True
        yield pytest.param(pixels, id=name)
    ring = empty.copy()
    ring[5:35, 5:55] = True
    ring[10:30, 10:50] = False
    ring[15:20, 20:30] = True
    yield pytest.param(ring, id="an island in a hole")


@pytest.mark.parametrize("pixels", list(shapes()))
def test_without_a_change_of_size_it_is_the_mask(pixels):
    assert (drawn(outline(stored(pixels), 1.0, 0.0), pixels.shape) == pixels).all()


@pytest.mark.parametrize("pixels", list(shapes()))
def test_enlarged_pixels_keep_their_edges(pixels):
    large = pixels.repeat(4, axis=0).repeat(4, axis=1)
    assert (drawn(outline(stored(pixels), 4.0, 0.0), large.shape) == large).all()


def test_a_smaller_outline_is_near_the_smaller_mask():
    y, x = np.mgrid[:900, :1200]
    pixels = ((x - 500) / 400) ** 2 + ((y - 450) / 300) ** 2 < 1
    pixels &= ((x - 450) / 100) ** 2 + ((y - 400) / 120) ** 2 > 1
    small = cv2.resize(pixels.astype(np.uint8) * 255, (480, 360), interpolation=cv2.INTER_AREA) >= 128
    path = outline(stored(pixels), 0.4, 1.0)
    assert iou(drawn(path, (360, 480)), small) > 0.98
    assert len(path) < 500


@pytest.mark.parametrize("scale", [0.001, 0.1])
def test_a_mask_too_small_to_see_is_still_there(scale):
    pixels = np.zeros((500, 500), bool)
    pixels[499, 498:] = True
    assert outline(stored(pixels), scale, 1.0).startswith("M")


def test_a_mask_without_pixels_has_no_outline():
    assert outline(stored(np.zeros((5, 5), bool)), 1.0, 1.0) == ""
