"""COCO files, as supervision and datumaro read them, in an environment of their own."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from tests.exports.masks import HEIGHT, WIDTH, all_shapes, prompted, row, shapes
from tests.storage.runs import failed_row

pytestmark = pytest.mark.soak

SUPERVISION = """
import json, os, sys
import numpy as np, supervision
from pycocotools import mask as coco_mask
folder = sys.argv[1]
images = os.path.join(folder, "images")
read = supervision.DetectionDataset.from_coco(images, os.path.join(folder, "annotations.json"), force_masks=True)
found = {}
for path, _, detections in read:
    masks = [] if detections.mask is None else detections.mask
    rles = [coco_mask.encode(np.asfortranarray(mask, np.uint8))["counts"].decode() for mask in masks]
    found[os.path.relpath(path, images)] = [rles, detections.xyxy.tolist(), detections.class_id.tolist()]
print(json.dumps({"classes": read.classes, "images": found}))
"""

DATUMARO = """
import json, os, sys
import numpy as np
from datumaro.components.annotation import AnnotationType, LabelCategories
from datumaro.components.dataset import Dataset
from pycocotools import mask as coco_mask
read = Dataset.import_from(sys.argv[1], "coco_instances")
found = {}
for item in read:
    masks = [each for each in item.annotations if each.type == AnnotationType.mask]
    masks = list({each.group: each for each in masks}.values())
    rles = [coco_mask.encode(np.asfortranarray(each.image, np.uint8))["counts"].decode() for each in masks]
    found[os.path.basename(item.media.path)] = [rles, [each.label for each in masks]]
classes = [label.name for label in read.categories()[AnnotationType.label]]
print(json.dumps({"classes": classes, "images": found}))
"""


@pytest.fixture
def folder(exported, tmp_path):
    """An export with its images: all kinds of masks, of the grid and of a detector; none; and a failure."""
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    boxes = [prompted(pixels, number % 2) for number, pixels in enumerate(shapes().values())]
    rows = [row(0, all_shapes()), row(1, []), failed_row(2), row(3, boxes)]
    folder, _ = exported(rows, "coco", categories=str(tmp_path / "names.txt"))
    (folder / "images").mkdir()
    for number in (0, 1, 3):
        Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).save(folder / "images" / f"{number:04}.jpg")
    return folder


def expected_rles():
    return [coco_mask.encode(np.asfortranarray(pixels, np.uint8))["counts"].decode() for pixels in shapes().values()]


def test_supervision_reads_every_mask(folder, readers):
    read = json.loads(readers(SUPERVISION, folder).splitlines()[-1])
    rles = expected_rles()
    assert read["classes"] == ["cat", "dog", "object"]
    assert {name: found[0] for name, found in read["images"].items()} == {
        "0000.jpg": rles,
        "0001.jpg": [],
        "0003.jpg": rles,
    }
    boxes = json.loads((folder / "annotations.json").read_text())["annotations"]
    corners = [[x, y, x + w, y + h] for x, y, w, h in (each["bbox"] for each in boxes)]
    assert read["images"]["0000.jpg"][1] + read["images"]["0003.jpg"][1] == corners
    assert read["images"]["0003.jpg"][2] == [number % 2 for number in range(len(rles))]


def test_datumaro_reads_every_mask(folder, readers, tmp_path):
    # It finds files by the names of COCO's own.
    (tmp_path / "datumaro" / "annotations").mkdir(parents=True)
    shutil.copy(folder / "annotations.json", tmp_path / "datumaro" / "annotations" / "instances_default.json")
    shutil.copytree(folder / "images", tmp_path / "datumaro" / "images" / "default")
    read = json.loads(readers(DATUMARO, tmp_path / "datumaro").splitlines()[-1])
    rles = expected_rles()
    assert read["classes"] == ["cat", "dog", "object"]
    # It keeps an order of its own.
    found = {name: sorted(zip(*masks, strict=True)) for name, masks in read["images"].items()}
    assert found == {
        "0000.jpg": sorted((each, 2) for each in rles),
        "0001.jpg": [],
        "0003.jpg": sorted((each, number % 2) for number, each in enumerate(rles)),
    }
