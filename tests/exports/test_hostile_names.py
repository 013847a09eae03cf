"""Names of images that mean harm, in formats with a file for each image."""

import json

import pytest

from sam_pipeline.exports.places.destination import OWN_FOLDER
from tests.exports.masks import all_shapes, row
from tests.exports.test_coco import HOSTILE
from tests.exports.yolo_loader import label_path

SUFFIXES = {"yolo-seg": ".txt", "yolo-box": ".txt", "png": ".png", "labelme": ".json"}
FORMATS = [("sa1b", {}), ("amg", {}), ("amg", {"convert_to_rle": True}), *((name, {}) for name in SUFFIXES)]
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


@pytest.mark.parametrize(("format", "settings"), FORMATS, ids=str)
def test_no_file_has_the_name_of_a_folder(exported, make_run, format, settings):
    names = [
        *("x.jpg", "x/0.png", "x/0.jpg", "x.jpg.jpg", "y.jpg", "y/metadata.csv.jpg"),
        *("a.jpg", "a.png", "a.png/b.jpg", "a.png.png/b.jpg", "a.csv/b.jpg"),
        *("c.jpg", "c.json/b.jpg", "c.txt/b.jpg", "c.jpg.json/b.jpg", "c.jpg.txt/b.jpg"),
    ]
    run = make_run([row(number, all_shapes()[:1], uri=f"file:///in/{name}") for number, name in enumerate(names)])
    folder, summary = exported(run, format, **settings)
    suffix = {"sa1b": ".json", "amg": "0.png"}.get(format, SUFFIXES.get(format))
    suffix = ".json" if settings else suffix
    written = [path for path in folder.rglob(f"*{suffix}") if path.is_file() and OWN_FOLDER not in path.parts]
    assert len(written) == summary.num_images == len(names)


def test_names_that_could_be_taken_for_encoded_ones_differ_from_these(exported):
    names = ["images/a.jpg", "%69mages/a.jpg", "%2569mages/a.jpg", "%01.jpg", "%2501.jpg", "\x01.jpg"]
    rows = [row(number, all_shapes()[:1], uri=f"file:///in/{name}") for number, name in enumerate(names)]
    folder, _ = exported(rows, "yolo-box")
    assert len(list(folder.rglob("*.txt"))) == len(names)


def test_no_image_has_the_name_of_a_note(exported):
    names = [
        ".sam-pipeline-export/export.jpg",
        ".SAM-pipeline-export/parts/0000000.jpg",
        "%2Esam-pipeline-export/export.jpg",
    ]
    rows = [row(number, [], uri=f"file:///in/{name}") for number, name in enumerate([*names, "b.jpg"])]
    folder, _ = exported(rows, "sa1b")
    found = {str(path.relative_to(folder)) for path in folder.rglob("*.json") if OWN_FOLDER not in path.parts}
    assert found == {
        "%2Esam-pipeline-export/export.json",
        "%2ESAM-pipeline-export/parts/0000000.json",
        "%252Esam-pipeline-export/export.json",
        "b.json",
    }
    assert "identity" in json.loads((folder / OWN_FOLDER / "export.json").read_text())
