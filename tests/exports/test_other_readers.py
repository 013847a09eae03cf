"""Exports read by other people's programs, in an environment of their own: same images, same masks, same order."""

import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from tests.exports.masks import prompted, shapes, stored
from tests.exports.pictures import picture, run_of, turned

pytestmark = pytest.mark.soak

# Prints, as JSON, each image's size and its masks: name → [[H, W], [class, RLE of the mask]].
_START = """
import json, sys
import numpy as np
from pycocotools import mask as coco_mask

def rle(mask):
    found = coco_mask.encode(np.asfortranarray(np.asarray(mask, dtype=np.uint8)))
    return {"size": found["size"], "counts": found["counts"].decode()}

folder, images = sys.argv[1], {}
"""
_END = "\nprint(json.dumps(images))\n"

_DATASETS = """
import datasets
for row in datasets.load_dataset(folder, cache_dir=sys.argv[2])["train"]:
    objects = row["objects"]
    images[row["file_name"]] = [row["image"].size[::-1], list(zip(objects["category"], objects["segmentation"]))]
"""

_WEBDATASET = """
import webdataset
shard = webdataset.WebDataset(folder + "/shard-000000.tar", shardshuffle=False)
for image, content in shard.decode("pil").to_tuple("jpg", "json"):
    masks = [(each["category_id"] - 1, each["segmentation"]) for each in content["annotations"]]
    images[content["file_name"]] = [image.size[::-1], masks]
"""

_LABELME = """
import glob, os
from labelme._label_file import LabelFile
from labelme.utils import img_data_to_arr
labels = ["cat", "dog", "object"]
for path in sorted(glob.glob(folder + "/*.json")):
    file = LabelFile(path)
    size = img_data_to_arr(file.image_data).shape[:2]
    masks = []
    for shape in file.shapes:
        (x0, y0), (x1, y1) = np.array(shape["points"]).astype(int)
        mask = np.zeros(size, bool)
        mask[y0 : y1 + 1, x0 : x1 + 1] = shape["mask"]
        masks.append((labels.index(shape["label"]), rle(mask)))
    images[file.image_path] = [size, masks]
"""

_SUPERVISION = """
import os
import supervision
read = supervision.DetectionDataset.from_yolo(
    folder + "/images", folder + "/labels", folder + "/data.yaml", force_masks=sys.argv[2] == "masks"
)
for path, image, found in read:
    masks = [] if found.mask is None else [rle(mask) for mask in found.mask]
    if sys.argv[2] == "boxes":
        masks = found.xyxy.tolist()
    images[os.path.basename(path)] = [image.shape[:2], list(zip(found.class_id.tolist(), masks))]
"""

_DATUMARO = """
import datumaro
for item in datumaro.Dataset.import_from(folder, "yolo"):
    boxes = [(each.label, [each.x, each.y, each.x + each.w, each.y + each.h]) for each in item.annotations]
    images[item.id] = [item.media.size, boxes]
"""

MASKS = [
    [prompted(pixels, number % 2) for number, pixels in enumerate(shapes().values())],
    [stored(pixels) for pixels in list(shapes().values())[:3]],
    [],
]
FILES = {"0.jpg": picture(0), "1.jpg": turned(1), "2.jpg": picture(2)}


@pytest.fixture
def read_by(readers, exported, tmp_path):
    """Export the images and read them: by name, their size and masks."""
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    run = run_of(tmp_path, FILES, masks=MASKS)

    def read(program, format, argument="", **settings):
        folder, _ = exported(run, format, categories=str(tmp_path / "names.txt"), **settings)
        return json.loads(readers(_START + program + _END, folder, argument))

    return read


def expected_class(mask):
    return 2 if mask["category_id"] is None else mask["category_id"]


@pytest.mark.parametrize(
    ("format", "program", "settings"),
    [("hf", _DATASETS, {}), ("webdataset", _WEBDATASET, {}), ("labelme", _LABELME, {"images": "copy"})],
)
def test_masks_are_read_as_they_are_in_their_order(read_by, tmp_path, format, program, settings):
    found = read_by(program, format, str(tmp_path / "cache"), **settings)
    assert list(found) == list(FILES)
    for (size, masks), expected in zip(found.values(), MASKS, strict=True):
        assert size == [97, 131]
        assert [number for number, _ in masks] == [expected_class(mask) for mask in expected]
        for (_, mask), stored_mask in zip(masks, expected, strict=True):
            assert np.array_equal(coco_mask.decode(mask), coco_mask.decode(stored_mask["segmentation"]))


def test_supervision_reads_the_masks_of_yolo(read_by):
    found = read_by(_SUPERVISION, "yolo-seg", "masks", images="copy")
    assert list(found) == list(FILES)
    for (size, masks), expected in zip(found.values(), MASKS, strict=True):
        assert size == [97, 131]
        assert [number for number, _ in masks] == [expected_class(mask) for mask in expected]
        for (_, mask), stored_mask in zip(masks, expected, strict=True):
            (iou,) = coco_mask.iou([mask], [stored_mask["segmentation"]], [0])[0]
            # Bridges between parts are seen in these small images.
            assert iou == 1 or (iou > 0.85 and stored_mask["area"] > 900)


def check_boxes(found):
    for (_, boxes), expected in zip(found.values(), MASKS, strict=True):
        assert [number for number, _ in boxes] == [expected_class(mask) for mask in expected]
        for (_, box), mask in zip(boxes, expected, strict=True):
            x, y, w, h = coco_mask.toBbox(mask["segmentation"])
            assert box == pytest.approx([x, y, x + w, y + h], abs=0.01)


def test_supervision_reads_the_boxes_of_yolo(read_by):
    check_boxes(read_by(_SUPERVISION, "yolo-box", "boxes", images="copy"))


def test_datumaro_reads_the_boxes_of_yolo(read_by):
    found = read_by(_DATUMARO, "yolo-box", images="copy", split=0.9)
    check_boxes(dict(sorted(found.items())))
