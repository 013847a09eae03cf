"""What the official scripts/amg.py writes: its files, its columns, its keys."""

import csv
import json
import tracemalloc

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from sam_pipeline.exports.formats.amg import metadata_csv
from tests.exports.masks import prompted, row, shapes, stored

COLUMNS = (
    "id,area,bbox_x0,bbox_y0,bbox_w,bbox_h,point_input_x,point_input_y,predicted_iou,stability_score,"
    "crop_box_x0,crop_box_y0,crop_box_w,crop_box_h"
)


def test_an_image_is_a_folder_of_masks_and_a_table(exported, every_shape):
    folder, _ = exported(every_shape, "amg")
    assert sorted(path.name for path in folder.iterdir() if path.name[0] != ".") == ["0000", "0001", "0003"]
    with (folder / "0000" / "metadata.csv").open() as file:
        read = list(csv.DictReader(file))
    assert ",".join(read[0]) == COLUMNS
    for number, pixels in enumerate(shapes().values()):
        picture = Image.open(folder / "0000" / f"{number}.png")
        assert picture.mode == "L"
        assert np.array_equal(np.asarray(picture), pixels * 255)
        x, y, w, h = stored(pixels)["bbox"]  # the official generator's: one less than the pixels spanned
        values = [number, pixels.sum(), x, y, w, h, x + 0.5, y + 0.25, np.float32(0.9), np.float32(0.97), 0, 0, 131, 97]
        assert [float(value) for value in read[number].values()] == [float(value) for value in values]
    assert (folder / "0001" / "metadata.csv").read_text() == COLUMNS
    assert [path.name for path in (folder / "0001").iterdir()] == ["metadata.csv"]


def test_with_rle_an_image_is_the_list_that_the_generator_gives(exported, every_shape):
    folder, _ = exported(every_shape, "amg", convert_to_rle=True)
    content = json.loads((folder / "0000.json").read_text())
    for each, pixels in zip(content, shapes().values(), strict=True):
        assert list(each) == [
            "segmentation",
            "area",
            "bbox",
            "predicted_iou",
            "point_coords",
            "stability_score",
            "crop_box",
        ]
        assert np.array_equal(coco_mask.decode(each["segmentation"]), pixels)
        assert each["bbox"] == stored(pixels)["bbox"]
        assert each["predicted_iou"] == float(np.float32(0.9))
    assert (folder / "0001.json").read_text() == "[]"


def test_a_mask_of_a_box_has_no_point(exported):
    masks = [prompted(shapes()["disc"], None, predicted_iou=float("nan"))]
    folder, _ = exported([row(0, masks), row(1, [])], "amg", convert_to_rle=True)
    (mask,) = json.loads((folder / "0000.json").read_text(), parse_constant=str)
    assert (mask["point_coords"], mask["predicted_iou"]) == ([], None)
    assert metadata_csv([mask | {"predicted_iou": 0.5}]).splitlines()[
        1
    ] == f"0,{mask['area']},25,15,50,50,,,0.5," + ",".join(map(str, [mask["stability_score"], 0, 0, 131, 97]))


def test_the_pixels_of_one_mask_of_an_image_are_held_at_a_time(exported):
    """A hundred masks of twelve megapixels would be more than a gigabyte."""
    pixels = np.zeros((1000, 1000), bool)
    pixels[:10, :10] = True
    rows = [row(0, [stored(pixels)] * 60, height=1000, width=1000)]
    exported(rows, "amg", "warm")  # imports and compiles
    tracemalloc.start()
    exported(rows, "amg", "measured")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20e6
