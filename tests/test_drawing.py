"""Masks drawn over pictures: what is drawn where, of masks in every form, and what is refused."""

import tracemalloc

import numpy as np
import pytest
from PIL import ImageFont

from sam_pipeline import draw_masks
from sam_pipeline.drawing import mask_color
from sam_pipeline.masks.runs import rle
from sam_pipeline.masks.runs.runs import Runs
from tests.end_to_end.pictures import photo
from tests.stored_masks import NO_PROMPT

HEIGHT, WIDTH = 240, 320
GREY = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)


def rectangle(x, y, w, h):
    pixels = np.zeros((HEIGHT, WIDTH), bool)
    pixels[y : y + h, x : x + w] = True
    return pixels


def stored(pixels, **fields):
    mask = {"segmentation": rle.encode(Runs.of_mask(pixels)), "area": int(pixels.sum()), "predicted_iou": 0.9}
    return mask | NO_PROMPT | fields


def as_pycocotools(pixels):
    coded = rle.encode(Runs.of_mask(pixels))
    return coded | {"counts": coded["counts"].encode()}


LARGE, SMALL = rectangle(40, 30, 200, 180), rectangle(100, 60, 50, 40)


def changed(drawn, before=GREY):
    return (drawn != before).any(axis=2)


@pytest.mark.parametrize(
    "form",
    [
        lambda pixels: pixels,
        lambda pixels: pixels.astype(np.uint8),
        lambda pixels: 255 * pixels.astype(np.int64),
        lambda pixels: rle.encode(Runs.of_mask(pixels)),
        as_pycocotools,
        stored,
        lambda pixels: {"segmentation": pixels, "area": int(pixels.sum())},
        lambda pixels: np.asfortranarray(pixels),
    ],
)  # fmt: skip
def test_a_mask_in_any_form_is_tinted_exactly_where_it_is(form):
    drawn = draw_masks(GREY, [form(LARGE)], labels=False)
    assert (drawn.shape, drawn.dtype) == (GREY.shape, np.uint8)
    assert np.array_equal(changed(drawn), LARGE)
    inside = (0.55 * 128 + 0.45 * np.array(mask_color(0))).round()
    assert np.array_equal(drawn[100, 100], inside)
    assert np.array_equal(drawn[30, 100], mask_color(0)), "the outline is on the mask's own pixels"


def test_an_array_of_masks_is_as_good_as_a_list():
    masks = np.stack([LARGE, SMALL])
    assert np.array_equal(draw_masks(GREY, masks), draw_masks(GREY, list(masks)))


def test_small_masks_are_over_large_ones_and_keep_their_colours():
    one_way, other_way = draw_masks(GREY, [LARGE, SMALL], False), draw_masks(GREY, [SMALL, LARGE], False)
    assert np.array_equal(one_way[60, 110], mask_color(1))
    assert np.array_equal(other_way[60, 110], mask_color(0))
    below = (0.55 * 128 + 0.45 * np.array(mask_color(0))).round()
    assert np.array_equal(one_way[80, 120], (0.55 * below + 0.45 * np.array(mask_color(1))).round())
    assert np.array_equal(one_way, draw_masks(GREY, [LARGE, SMALL], False))
    assert len({mask_color(number) for number in range(200)}) == 200


def test_the_image_is_left_as_it_is_and_may_be_read_only():
    image = GREY.copy()
    image.setflags(write=False)
    assert not np.array_equal(draw_masks(image, [LARGE]), image)
    assert np.array_equal(image, GREY)


@pytest.mark.parametrize("masks", [[], [np.zeros((HEIGHT, WIDTH), bool)], np.zeros((0, HEIGHT, WIDTH), bool)])
def test_nothing_is_drawn_of_nothing(masks):
    drawn = draw_masks(GREY, masks, prompt_boxes=True)
    assert np.array_equal(drawn, GREY)
    assert drawn is not GREY


def test_of_a_mask_no_more_is_held_than_its_box():
    masks = [stored(rectangle(10, 10, 5, 5))] * 100
    tracemalloc.start()
    draw_masks(GREY, masks, labels=False)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * HEIGHT * WIDTH


def written(monkeypatch, masks, labels=True, **options):
    """The texts that are drawn."""
    texts = []
    draw = ImageFont.FreeTypeFont.getmask2

    def getmask2(self, text, *arguments, **options):
        texts.append(text)
        return draw(self, text, *arguments, **options)

    monkeypatch.setattr(ImageFont.FreeTypeFont, "getmask2", getmask2)
    draw_masks(GREY, masks, labels, **options)
    return texts


@pytest.mark.parametrize(
    ("mask", "options", "text"),
    [
        (stored(LARGE), {}, "0.90"),
        (stored(LARGE, category_id=3, score=0.876), {}, "category 3 0.88"),
        (stored(LARGE, category_id=3, score=0.876), {"categories": {3: "cat"}}, "cat 0.88"),
        (stored(LARGE, category_id=0), {"categories": {0: "cat"}}, "cat"),
        (stored(LARGE, score=0.0), {}, "0.00"),
        (LARGE, {}, "0"),
        (stored(LARGE), {"labels": ["mine"]}, "mine"),
        (stored(LARGE), {"labels": ["two\nlines\x1b[31m"]}, "two\ufffdlines\ufffd[31m"),
    ],
)
def test_a_label_is_category_and_score_or_what_is_given(monkeypatch, mask, options, text):
    assert written(monkeypatch, [mask], **options) == [text]


def test_a_name_that_is_wider_than_the_picture_is_cut(monkeypatch):
    (text,) = written(monkeypatch, [LARGE], ["w" * 10_000])
    assert text.startswith("w" * 20)
    assert text.endswith("...")


def test_no_label_is_drawn_where_none_is_wanted(monkeypatch):
    assert written(monkeypatch, [stored(LARGE)], labels=False) == []
    assert written(monkeypatch, [stored(LARGE)], labels=[""]) == []


def test_labels_lie_in_the_picture_and_not_over_one_another(monkeypatch):
    texts = written(monkeypatch, [stored(LARGE)] * 40, labels=[f"label {number}" for number in range(40)])
    assert texts == [f"label {number}" for number in range(len(texts))]
    assert 3 <= len(texts) <= 7, "as many as there are places around a mask"
    spread = [rectangle(50 * number, 30 * number, 30, 30) for number in range(6)]
    assert len(written(monkeypatch, spread)) == 6


@pytest.mark.parametrize(("height", "width"), [(1, 1), (5, 400), (16, 16), (3000, 2000)])
def test_images_of_any_size_are_labelled(height, width):
    image = np.zeros((height, width, 3), np.uint8)
    mask = stored(np.ones((height, width), bool), prompt_box=[0.0, 0.0, width, height])
    drawn = draw_masks(image, [mask], prompt_boxes=True)
    assert changed(drawn, image).any()


def test_letters_grow_with_the_image():
    def label_height(side):
        mask = np.zeros((side, side), bool)
        mask[side // 4 : side // 2, side // 4 : side // 2] = True
        with_label, without = (draw_masks(np.zeros((side, side, 3), np.uint8), [mask], on) for on in (True, False))
        return np.count_nonzero(changed(with_label, without).any(axis=1))

    assert label_height(256) == label_height(400) >= 12
    assert label_height(2000) > 3 * label_height(400)


def test_boxes_of_prompts_are_dashed_if_asked():
    box = [60.0, 50.0, 120.0, 90.0]
    mask = stored(SMALL, prompt_box=box)
    plain, boxed = (draw_masks(GREY, [mask], labels=False, prompt_boxes=on) for on in (False, True))
    differs = changed(boxed, plain)
    edge = differs[50, 60:180]
    assert 0.3 < edge.mean() < 0.8, "dashes and gaps"
    assert not differs[70:80, 70:90].any()
    assert not changed(draw_masks(GREY, [stored(SMALL)], labels=False, prompt_boxes=True), plain).any()


def test_a_photograph_still_shows_through():
    image = photo(0)
    mask = np.zeros(image.shape[:2], bool)
    mask[10:60, 20:90] = True
    drawn = draw_masks(image, [mask], labels=False)
    inside = (slice(20, 50), slice(30, 80))
    assert np.corrcoef(drawn[inside].ravel(), image[inside].ravel())[0, 1] > 0.5
    assert np.array_equal(drawn[70:], image[70:])


@pytest.mark.parametrize(
    ("image", "masks", "labels", "message"),
    [
        (GREY[..., 0], [], True, r"image must be \(H, W, 3\) uint8, got \(240, 320\) uint8"),
        (GREY.astype(float), [], True, r"got \(240, 320, 3\) float64"),
        (np.zeros((4, 4, 4), np.uint8), [], True, r"got \(4, 4, 4\) uint8"),
        (GREY, [LARGE, SMALL[1:]], True, r"mask 1 is \(239, 320\), but the image is \(240, 320\)"),
        (GREY, [stored(np.ones((4, 6), bool))], True, r"mask 0 is \(4, 6\)"),
        (GREY, LARGE, True, r"mask 0 is \(320,\)"),
        (GREY, [LARGE.astype(np.float32)], True, "mask 0 must be an array of bool or integers, or RLE; got float32"),
        (GREY, [{"area": 3}], True, r"mask 0 must be COCO's compressed RLE with size and counts, got \['area'\]"),
        (GREY, [{"size": [2, 2], "counts": [4]}], True, "mask 0 must be COCO's compressed RLE"),
        (GREY, [LARGE], ["a", "b"], "there are 2 labels and 1 masks"),
    ],
)
def test_what_cannot_be_drawn_is_refused(image, masks, labels, message):
    with pytest.raises(ValueError, match=message):
        draw_masks(image, masks, labels)
