"""Index maps, read with Pillow."""

import csv

import numpy as np
import pytest
from PIL import Image

from sam_pipeline.exports.formats.index_png import draw_index
from sam_pipeline.masks.runs import rle
from sam_pipeline.masks.runs.runs import Runs
from tests.exports.masks import HEIGHT, WIDTH, row, shapes, stored


def read(folder, name="0000"):
    with Image.open(folder / f"{name}.png") as image:
        index, mode = np.asarray(image), image.mode
    with open(folder / f"{name}.csv", newline="") as file:
        return index, mode, list(csv.DictReader(file))


def test_small_masks_lie_above_large_ones_and_every_value_has_a_line(exported, every_shape):
    folder, summary = exported(every_shape, "png")
    index, mode, lines = read(folder)
    assert (mode, index.dtype, index.shape) == ("P", np.uint8, (HEIGHT, WIDTH))
    masks = list(shapes().values())
    expected = np.zeros((HEIGHT, WIDTH), int)
    for area in sorted({mask.sum() for mask in masks}, reverse=True):
        for number, mask in enumerate(masks):
            if mask.sum() == area:
                expected[mask] = number + 1
    assert np.array_equal(index, expected)
    assert [int(line["value"]) for line in lines] == list(range(1, len(masks) + 1))
    assert [int(line["annotation_id"]) for line in lines] == list(range(1, len(masks) + 1))
    for line, mask in zip(lines, masks, strict=True):
        assert int(line["area"]) == mask.sum()
        assert int(line["visible_area"]) == (index == int(line["value"])).sum()
        assert line["category"] == "object"
        assert float(line["predicted_iou"]) == pytest.approx(0.9)
    assert not read(folder, "0001")[0].any()
    num_covered = sum(0 < int(line["visible_area"]) < int(line["area"]) for line in lines)
    # Of the other image the ring, which the disc covers.
    assert summary.warnings["masks are covered in part by smaller ones"] == num_covered + 1


def test_masks_without_a_visible_pixel_are_counted(exported):
    disc = shapes()["disc"]
    halves = disc.copy(), disc.copy()
    halves[0][:, :50] = halves[1][:, 50:] = False
    _, summary = exported([row(0, [stored(disc), stored(halves[0]), stored(halves[1]), stored(halves[1])])], "png")
    assert summary.warnings == {"masks are hidden behind smaller ones, and have no pixel": 2}
    assert summary.num_masks == 4


def test_masks_without_any_pixel_are_neither_hidden_nor_covered(exported):
    nothing = stored(shapes()["disc"], area=0, segmentation=rle.encode(Runs.of_mask(np.zeros((HEIGHT, WIDTH), bool))))
    for masks in ([nothing], [nothing, stored(shapes()["disc"])]):
        _, summary = exported([row(0, masks)], "png", f"png-{len(masks)}")
        assert (summary.num_masks, summary.warnings) == (len(masks), {})


def test_more_than_255_masks_take_sixteen_bits(exported):
    def dot(number):
        pixels = np.zeros((HEIGHT, WIDTH), bool)
        pixels[number // 100, number % 100] = True
        return stored(pixels)

    for num_masks, mode in ((255, "P"), (256, "I;16")):
        folder, _ = exported([row(0, [dot(number) for number in range(num_masks)])], "png", f"png-{num_masks}")
        index, found, _ = read(folder)
        assert found == mode
        assert np.unique(index).tolist() == list(range(num_masks + 1))


def test_of_equal_masks_the_last_is_seen():
    disc = stored(shapes()["disc"])
    assert set(np.unique(draw_index([disc, disc], HEIGHT, WIDTH))) == {0, 2}


def test_the_palette_tells_neighbours_apart(exported, every_shape):
    folder, _ = exported(every_shape, "png")
    with Image.open(folder / "0000.png") as image:
        palette = np.array(image.getpalette()).reshape(-1, 3)
        assert np.array_equal(np.asarray(image.convert("RGB"))[60, 0], palette[np.asarray(image)[60, 0]])
    assert palette[0].tolist() == [0, 0, 0]
    assert len({tuple(colour) for colour in palette[:40].tolist()}) == 40
