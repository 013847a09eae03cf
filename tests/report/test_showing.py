"""One picture of a run, found by an id or the end of a URI."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sam_pipeline.drawing import draw_masks
from sam_pipeline.errors import ConfigError, InputError
from sam_pipeline.report.showing import draw_image, encoded, find_image, picture_format
from sam_pipeline.results.results import Results
from sam_pipeline.results.selection.mask_selection import MaskSelection
from tests.report.picture_runs import HEIGHT, WIDTH, write_picture_run
from tests.report.runs import GRID, write_run
from tests.storage.runs import row

URIS = ["s3://b/a/1.jpg", "s3://b/c/1.jpg", "s3://b/a/x1.jpg", "s3://b/t.tar#2.jpg", "s3://b/7", "s3://b/d/a/1.jpg"]


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    rows = [row(number, 1, uri=uri) for number, uri in enumerate(URIS)]
    return Results.open(write_run(str(tmp_path_factory.mktemp("run")), rows, fingerprint=GRID, num_images=9), {})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_picture_run(
        tmp_path_factory.mktemp("run"), ["0.png", "1.png", "2.png"], with_prompts=True, num_failed=1
    )


@pytest.mark.parametrize(
    ("name", "image_id"),
    [
        ("2", 2),
        ("c/1.jpg", 1),
        ("x1.jpg", 2),
        ("2.jpg", 3),
        ("t.tar#2.jpg", 3),
        ("7", 4),
        ("s3://b/a/1.jpg", 0),
        ("d/a/1.jpg", 5),
    ],
)
def test_an_image_is_found(named, name, image_id):
    assert find_image(named, name) == image_id


def test_several_images_are_listed(named):
    with pytest.raises(InputError, match=r"3 images end with '1.jpg': 0 \(s3://b/a/1.jpg\), 1 .*give an id"):
        find_image(named, "1.jpg")


@pytest.mark.parametrize("name", ["8", "99999999999999999999999", "none.jpg", "²"])
def test_an_image_that_is_not_there_is_told(named, name):
    with pytest.raises(InputError, match=r"no image of .*; 3 of 9 images have no row yet"):
        find_image(named, name)


def test_the_picture_is_that_of_draw_masks(run):
    picture, missing = draw_image(Results.open(run, {}), 1)
    (rows,) = Results.open(run, {}).tables(["masks"], first_id=1, last_id=1)
    masks = rows["masks"].to_pylist()[0]
    with Image.open(Path(run).parent / "images" / "1.png") as file:
        image = np.asarray(file)
    assert missing == ""
    assert (picture == draw_masks(image, masks, prompt_boxes=True)).all()
    (only,) = Results.open(run, {}, MaskSelection(max_masks=1)).tables(["masks"], first_id=1, last_id=1)
    selected, _ = draw_image(Results.open(run, {}, MaskSelection(max_masks=1)), 1)
    assert (selected == draw_masks(image, only["masks"].to_pylist()[0], prompt_boxes=True)).all()


def test_a_missing_image_is_grey_and_marked(tmp_path):
    output = write_picture_run(tmp_path, ["0.png"], masks_per_image=0)
    (tmp_path / "images" / "0.png").unlink()
    picture, missing = draw_image(Results.open(output, {}), 0)
    assert picture.shape == (HEIGHT, WIDTH, 3)
    assert (picture == 128).all()
    assert "No such file" in missing


def test_an_image_that_was_not_annotated_has_no_picture(run):
    with pytest.raises(InputError, match=r"image 2 .* has no masks: decode_error: cannot decode"):
        draw_image(Results.open(run, {}), 2)


@pytest.mark.parametrize(("name", "expected"), [("a.png", "PNG"), ("b.JPG", "JPEG"), ("s3://b/c.webp", "WEBP")])
def test_the_ending_says_the_format(name, expected):
    assert picture_format(name) == expected
    pixels = np.zeros((4, 6, 3), np.uint8)
    assert Image.open(io.BytesIO(encoded(pixels, expected))).size == (6, 4)


def test_other_formats_are_refused():
    with pytest.raises(ConfigError, match="a picture is called"):
        picture_format("a.gif")
    with pytest.raises(ConfigError, match=r"write a \.png"):
        encoded(np.zeros((2, 17000, 3), np.uint8), "WEBP")
