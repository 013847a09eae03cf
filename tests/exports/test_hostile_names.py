"""Names of images that mean harm, in formats with a file for each image."""

import json

import pytest

from tests.exports.masks import all_shapes, row
from tests.exports.test_coco import HOSTILE
from tests.exports.yolo_loader import label_path

SUFFIXES = {"yolo-seg": ".txt", "yolo-box": ".txt", "png": ".png", "labelme": ".json"}
NAMES = [*HOSTILE, "file:///in/images/images/in images.jpg", "file:///in/images/images.jpg"]


@pytest.mark.parametrize(("format", "suffix"), SUFFIXES.items())
def test_each_image_has_a_file_of_its_own_inside_the_folder(exported, tmp_path, format, suffix):
    rows = [row(number, all_shapes()[:1], uri=uri) for number, uri in enumerate(NAMES)]
    folder, summary = exported(rows, format)
    assert all(path == folder or path.name.startswith("run") for path in tmp_path.iterdir())
    written = [
        path for path in folder.rglob(f"*{suffix}") if ".sam-pipeline-export" not in path.relative_to(folder).parts
    ]
    assert len(written) == summary.num_images == len(NAMES)
    for path in written:
        name = str(path.relative_to(folder))
        assert name.isprintable()
        if format == "labelme":
            assert len(json.loads(path.read_text())["shapes"]) == 1
        if format.startswith("yolo"):
            image = folder / "images" / path.relative_to(folder / "labels").with_suffix(".jpg")
            assert label_path(image) == str(path)
