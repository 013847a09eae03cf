"""Masks as polygons, drawn again by pycocotools and by the rules of YOLO's loaders."""

import subprocess
import sys

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco_mask

from sam_pipeline.exports.polygons import bridges
from sam_pipeline.exports.polygons.polygons import mask_polygons
from sam_pipeline.exports.polygons.redrawing import coco_iou, yolo_iou
from sam_pipeline.masks.runs import rle
from sam_pipeline.masks.runs.runs import Runs
from tests.exports.masks import shapes
from tests.exports.yolo_loader import draw

PARTS = ("bridge", "split", "largest")
MASKS = arrays(bool, st.tuples(st.integers(1, 13), st.integers(1, 13)))


def encoded(pixels):
    return rle.encode(Runs.of_mask(np.asarray(pixels)))


def drawn_by_coco(polygons, height, width):
    return coco_mask.decode(
        coco_mask.merge(coco_mask.frPyObjects([each.reshape(-1).tolist() for each in polygons], height, width))
    ).astype(bool)


def written(polygon, height, width):
    """As a label has it: shares with six decimals."""
    return (polygon / (width, height)).round(6)


def drawn_by_yolo(polygons, height, width, rounding=np.rint):
    drawn = [
        draw(written(each, height, width).astype(np.float32), height, width, rounding=rounding) for each in polygons
    ]
    return np.logical_or.reduce(drawn)


def iou(one, other):
    return (one & other).sum() / (one | other).sum()


def parts_of(pixels):
    """The parts of a mask, the largest first."""
    _, labels = cv2.connectedComponents(pixels.astype(np.uint8), connectivity=8)
    return sorted((labels == number for number in range(1, labels.max() + 1)), key=lambda part: -part.sum())


@given(MASKS, st.sampled_from(PARTS))
@settings(max_examples=200, deadline=None)
def test_pycocotools_draws_the_mask_again_exactly(pixels, parts):
    polygons = mask_polygons(encoded(pixels), parts=parts, corners="edges")
    if not pixels.any():
        assert polygons == []
        return
    wanted = pixels
    if parts == "largest":
        wanted = next(part for part in parts_of(pixels) if np.array_equal(part, drawn_by_coco(polygons, *pixels.shape)))
        assert wanted.sum() == parts_of(pixels)[0].sum()
    assert np.array_equal(drawn_by_coco(polygons, *pixels.shape), wanted)
    assert len(polygons) == (len(parts_of(pixels)) if parts == "split" else 1)


@given(MASKS)
@settings(max_examples=200, deadline=None)
def test_loaders_of_yolo_draw_each_part_again_exactly(pixels):
    polygons = mask_polygons(encoded(pixels), parts="split", corners="pixels")
    parts = {part.tobytes() for part in parts_of(pixels)}
    for rounding in (np.rint, np.trunc):
        assert {drawn_by_yolo([each], *pixels.shape, rounding).tobytes() for each in polygons} == parts


@given(MASKS, st.sampled_from(PARTS), st.sampled_from(["edges", "pixels"]), st.sampled_from([0, 0.4, 1, 3, 50]))
@settings(max_examples=150, deadline=None)
def test_no_polygon_is_empty_or_leaves_the_image(pixels, parts, corners, simplify):
    height, width = pixels.shape
    for polygon in mask_polygons(encoded(pixels), parts=parts, corners=corners, simplify=simplify):
        assert len(polygon) >= 3
        assert len({tuple(point) for point in polygon.tolist()}) >= 3
        assert cv2.contourArea(polygon.astype(np.float32)) > 0 or parts == "bridge"
        assert (polygon >= 0).all()
        assert (polygon <= (width, height)).all()


@pytest.mark.parametrize("name", shapes())
def test_every_kind_of_mask_survives_both_readers(name):
    pixels = shapes()[name]
    edges, corners = (mask_polygons(encoded(pixels), parts="bridge", corners=kind) for kind in ("edges", "pixels"))
    assert np.array_equal(drawn_by_coco(edges, *pixels.shape), pixels)
    found = iou(drawn_by_yolo(corners, *pixels.shape), pixels)
    assert found == pytest.approx(yolo_iou(encoded(pixels), [written(each, *pixels.shape) for each in corners]))
    assert coco_iou(encoded(pixels), edges) == 1
    num_parts = len(parts_of(pixels))
    assert found == 1 if num_parts == 1 else found > 0.85


def test_the_box_of_the_polygon_is_that_of_the_mask():
    pixels = shapes()["two parts"]
    (polygon,) = mask_polygons(encoded(pixels), parts="bridge", corners="edges")
    x, y, w, h = coco_mask.toBbox(encoded(pixels))
    assert polygon.min(axis=0).tolist() == [x, y]
    assert polygon.max(axis=0).tolist() == [x + w, y + h]


def test_a_full_image_has_four_corners():
    full = encoded(np.ones((7, 9), bool))
    assert mask_polygons(full, parts="bridge", corners="edges")[0].tolist() == [[0, 0], [0, 7], [9, 7], [9, 0]]
    assert mask_polygons(full, parts="bridge", corners="pixels")[0].tolist() == [
        [0.25, 0.25],
        [0.25, 6.25],
        [8.25, 6.25],
        [8.25, 0.25],
    ]


def test_a_part_that_is_smaller_than_its_bridge_is_left_out_for_readers_that_would_draw_the_bridge():
    pixels = np.zeros((50, 200), bool)
    pixels[5:45, 5:45] = pixels[:45, 60:64] = True
    pixels[25, 190] = True
    (polygon,) = mask_polygons(encoded(pixels), parts="bridge", corners="pixels")
    drawn = drawn_by_yolo([polygon], 50, 200)
    assert not drawn[:, 66:].any()
    assert drawn[:, 60:64].sum() == 180
    assert iou(drawn, pixels) > 0.99


def test_many_parts_and_holes_take_no_long_time():
    pixels = np.random.default_rng(0).random((200, 200)) < 0.5
    (polygon,) = mask_polygons(encoded(pixels), parts="bridge", corners="pixels")
    assert iou(drawn_by_yolo([polygon], 200, 200), pixels) > 0.98


@pytest.mark.parametrize(("simplify", "least"), [(0.5, 0.99), (1, 0.99), (2, 0.98)])
@pytest.mark.parametrize("corners", ["edges", "pixels"])
def test_simplifying_saves_corners_and_keeps_the_mask_nearly(corners, simplify, least):
    y, x = np.mgrid[:400, :500]
    radius, angle = np.hypot(y - 180, x - 190), np.arctan2(y - 180, x - 190)
    pixels = (
        ((radius < 150 + 9 * np.sin(7 * angle)) & (radius > 60)) | (radius < 40) | (np.hypot(y - 300, x - 400) < 70)
    )
    (whole,) = mask_polygons(encoded(pixels), parts="bridge", corners=corners)
    (simpler,) = mask_polygons(encoded(pixels), parts="bridge", corners=corners, simplify=simplify)
    draw_again = drawn_by_coco if corners == "edges" else drawn_by_yolo
    assert len(simpler) < (1 if simplify < 1 else 0.5) * len(whole)
    assert iou(draw_again([simpler], *pixels.shape), pixels) >= least


def realistic(seed):
    """A blob with a rough border, holes, and islands, as SAM's masks have them."""
    generator = np.random.default_rng(seed)
    height, width = (int(value) for value in generator.integers(60, 400, 2))
    field = cv2.GaussianBlur(generator.standard_normal((height, width)), None, float(generator.uniform(3, 12)))
    y, x = np.mgrid[:height, :width]
    bump = np.exp(-(((y - height / 2) / height) ** 2 + ((x - width / 2) / width) ** 2) * 20)
    return field / field.std() * 0.25 + 2 * bump > 1.0


def test_the_loss_over_many_masks_is_below_what_is_promised():
    masks = [pixels for pixels in map(realistic, range(80)) if pixels.sum() > 32**2]
    assert len(masks) > 60
    assert sum(len(parts_of(pixels)) > 1 for pixels in masks) > 25
    ious = []
    for pixels in masks:
        polygons = mask_polygons(encoded(pixels), parts="bridge", corners="pixels")
        ious.append(iou(drawn_by_yolo(polygons, *pixels.shape), pixels))
        edges = mask_polygons(encoded(pixels), parts="bridge", corners="edges")
        assert np.array_equal(drawn_by_coco(edges, *pixels.shape), pixels)
    assert np.mean(ious) >= 0.99
    assert np.percentile(ious, 5) >= 0.95


@pytest.mark.parametrize("corners", ["edges", "pixels"])
def test_bridges_are_the_same_in_strips(monkeypatch, corners):
    """A large mask is looked at some rows at a time."""
    masks = [encoded(pixels) for pixels in shapes().values()]
    masks.append(encoded(np.random.default_rng(0).random((40, 50)) < 0.2))
    whole = [mask_polygons(mask, parts="bridge", corners=corners) for mask in masks]
    for rows in (1, 3):
        monkeypatch.setattr(bridges, "_STRIP_PIXELS", 50 * rows)
        strips = [mask_polygons(mask, parts="bridge", corners=corners) for mask in masks]
        for one, other in zip(whole, strips, strict=True):
            assert len(one) == len(other)
            assert all(np.array_equal(*pair) for pair in zip(one, other, strict=True))


# Masks of twelve megapixels, of which a box in two corners is set, in four threads.
LARGE_MASKS = """
import re
from concurrent.futures import ThreadPoolExecutor
import numpy as np
from sam_pipeline.exports.polygons.polygons import mask_polygons
from sam_pipeline.masks.runs import rle
from sam_pipeline.masks.runs.runs import Runs

def peak_bytes():
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])

pixels = np.zeros((3000, 4000), bool)
pixels[:200, :200] = pixels[2500:, 3500:] = True
mask = rle.encode(Runs.of_mask(pixels))
before = peak_bytes()
with ThreadPoolExecutor(4) as threads:
    made = list(threads.map(lambda _: mask_polygons(mask, parts="bridge", corners="edges"), range(4)))
assert all(len(polygons) == 1 for polygons in made)
print(peak_bytes() - before)
"""


def test_polygons_of_large_masks_are_made_in_bounded_memory():
    done = subprocess.run([sys.executable, "-c", LARGE_MASKS], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 350e6
