"""labelme's files, by the rules by which labelme draws their shapes."""

import base64
import io
import json

import numpy as np
from PIL import Image

from tests.exports.masks import prompted, row, shapes, stored
from tests.exports.pictures import in_tar, picture, pixels, run_of, turned
from tests.storage.runs import failed_row


def draw(shape, height, width):
    """A shape as an (H, W) mask: the PNG is pasted between two points, both of them within."""
    assert shape["shape_type"] == "mask"
    (x0, y0), (x1, y1) = np.array(shape["points"]).astype(int)
    mask = np.zeros((height, width), bool)
    with Image.open(io.BytesIO(base64.b64decode(shape["mask"]))) as image:
        mask[y0 : y1 + 1, x0 : x1 + 1] = np.asarray(image).astype(bool)
    return mask


def test_every_mask_is_read_back_as_it_is(exported, every_shape):
    folder, summary = exported(every_shape, "labelme")
    content = json.loads((folder / "0000.json").read_text())
    assert set(content) == {"version", "flags", "shapes", "imagePath", "imageData", "imageHeight", "imageWidth"}
    assert (content["imageHeight"], content["imageWidth"], content["imageData"]) == (97, 131, None)
    for shape, mask in zip(content["shapes"], shapes().values(), strict=True):
        assert np.array_equal(draw(shape, 97, 131), mask)
        assert shape["label"] == "object"
    assert json.loads((folder / "0001.json").read_text())["shapes"] == []
    assert summary.num_masks == len(shapes()) + 2


def test_labels_are_the_names_of_categories(exported, tmp_path):
    (tmp_path / "names.txt").write_text("cat\ndög\n")
    masks = [prompted(shapes()["disc"], 1), prompted(shapes()["disc"], 0), stored(shapes()["disc"])]
    folder, _ = exported([row(0, masks)], "labelme", categories=str(tmp_path / "names.txt"))
    assert [each["label"] for each in json.loads((folder / "0000.json").read_text())["shapes"]] == [
        "dög",
        "cat",
        "object",
    ]


def image_beside(path):
    """The image that a file names, and its size after EXIF."""
    content = json.loads(path.read_text())
    with Image.open(path.parent / content["imagePath"]) as image:
        assert (content["imageWidth"], content["imageHeight"]) == image.size
        return np.asarray(image)


def test_the_image_is_found_where_it_was_annotated_or_where_it_is_copied_to(exported, tmp_path):
    files = {"a/0.jpg": picture(0), "b/1.jpg": turned(1)}
    run = run_of(tmp_path, files)
    folder, _ = exported(run, "labelme")
    assert np.array_equal(image_beside(folder / "a/0.json"), image_beside(tmp_path / "export" / "a" / "0.json"))
    content = json.loads((folder / "a/0.json").read_text())
    assert (folder / "a" / content["imagePath"]).resolve() == (tmp_path / "in" / "a" / "0.jpg").resolve()
    for how in ("copy", "symlink"):
        folder, _ = exported(run, "labelme", how, images=how, split=0.5)
        for path in [*folder.rglob("0.json"), *folder.rglob("1.json")]:
            assert json.loads(path.read_text())["imagePath"] == f"{path.stem}.jpg"
    copied = image_beside(next((tmp_path / "copy").rglob("1.json")))
    assert np.abs(copied.astype(int) - pixels(1)).max() <= 8


def test_the_image_is_found_from_a_folder_to_which_a_link_leads(exported, tmp_path):
    run = run_of(tmp_path, {"a/0.jpg": picture(0)})
    (tmp_path / "disk" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "deep")
    folder, _ = exported(run, "labelme", "link/labels")
    assert image_beside(folder / "a/0.json").shape == (97, 131, 3)
    # An image that is a link itself keeps its name.
    (tmp_path / "in" / "a" / "0.jpg").rename(tmp_path / "in" / "blob")
    (tmp_path / "in" / "a" / "0.jpg").symlink_to(tmp_path / "in" / "blob")
    folder, _ = exported(run, "labelme", "link/again")
    assert json.loads((folder / "a/0.json").read_text())["imagePath"].endswith("/in/a/0.jpg")


def test_members_of_archives_are_named_as_if_they_lay_beside_and_can_be_copied(exported, tmp_path):
    run = run_of(tmp_path, {"0.jpg": picture(0), "x/1.jpg": picture(1)}, in_tar)
    folder, _ = exported(run, "labelme")
    assert json.loads((folder / "x/1.json").read_text())["imagePath"] == "1.jpg"
    folder, _ = exported(run, "labelme", "copied", images="copy")
    assert image_beside(folder / "x/1.json").shape == (97, 131, 3)


def test_failures_have_no_file(exported):
    folder, summary = exported([failed_row(0)], "labelme")
    assert not list(folder.glob("*.json"))
    assert summary.images_left_out == {"decode_error": 1}
