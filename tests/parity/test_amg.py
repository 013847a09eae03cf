"""The command amg on MobileSAM's real weights: its files against those of the official script with the same flags."""

from __future__ import annotations

import csv
import json

import cv2
import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from sam_pipeline.cli.commands import main
from tests.parity.oracle import official_generator, official_mobile_sam

pytestmark = pytest.mark.weights

MAX_SCORE_DIFFERENCE = 1e-4
MAX_PIXELS_OFF = 2
"""Of a mask: sums in another order move a logit that lies on the threshold to its other side."""

FLAGS = {
    "loose": {
        "points_per_side": 3,
        "points_per_batch": 7,
        "pred_iou_thresh": 0.6,
        "stability_score_thresh": 0.7,
        "stability_score_offset": 0.8,
        "box_nms_thresh": 0.9,
    },
    "crops": {
        "points_per_side": 4,
        "pred_iou_thresh": 0.7,
        "stability_score_thresh": 0.85,
        "crop_n_layers": 1,
        "crop_nms_thresh": 0.6,
        "crop_overlap_ratio": 0,
        "crop_n_points_downscale_factor": 2,
        "min_mask_region_area": 60,
    },
}


@pytest.fixture(scope="module")
def official_sam(vit_t_checkpoint):
    return official_mobile_sam(torch.load(vit_t_checkpoint, weights_only=True))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Files of which the official script's reader makes something of its own, and some that it leaves out."""
    folder = tmp_path_factory.mktemp("photographs")
    exif = Image.Exif()
    exif[274] = 6  # to be turned
    Image.fromarray(skimage.data.coffee()[::2, ::2]).save(folder / "turned cup.v1.jpg", exif=exif, quality=90)
    Image.fromarray(skimage.data.chelsea()).save(folder / "chelsea.png")
    colours, alpha = skimage.data.rocket()[::2, ::2], np.tile(np.arange(320, dtype=np.uint8), (214, 1))
    Image.fromarray(np.dstack([colours, alpha])).save(folder / "alpha.PNG")
    cv2.imwrite(str(folder / "deep.png"), skimage.data.camera()[::2, ::2].astype(np.uint16) * 257)
    cv2.imwrite(str(folder / "pixmap.ppm"), skimage.data.astronaut()[:200, :300, ::-1])
    (folder / "notes.txt").write_text("no image")
    (folder / "broken.jpg").write_bytes(b"no image either")
    (folder / "folder.png").mkdir()
    return folder


def amg_of_the_official_package(sam, folder, output, settings, *, as_rle):
    """What the official script does, with its generator and its calls of OpenCV and json."""
    output.mkdir()
    mode = "coco_rle" if as_rle else "binary_mask"
    generator = official_generator(sam, output_mode=mode, **settings)
    for path in folder.iterdir():
        image = None if path.is_dir() else cv2.imread(str(path))
        if image is None:
            continue
        records = generator.generate(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
        if as_rle:
            with open(output / f"{path.stem}.json", "w") as file:
                json.dump(records, file)
            continue
        (output / path.stem).mkdir()
        lines = [
            "id,area,bbox_x0,bbox_y0,bbox_w,bbox_h,point_input_x,point_input_y,predicted_iou,stability_score,"
            "crop_box_x0,crop_box_y0,crop_box_w,crop_box_h"
        ]
        for index, record in enumerate(records):
            cv2.imwrite(str(output / path.stem / f"{index}.png"), record["segmentation"] * 255)
            values = [index, record["area"], *record["bbox"], *record["point_coords"][0]]
            values += [record["predicted_iou"], record["stability_score"], *record["crop_box"]]
            lines.append(",".join(str(value) for value in values))
        (output / path.stem / "metadata.csv").write_text("\n".join(lines))


def run_amg(folder, output, settings, *more):
    flags = [text for name, value in settings.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    with pytest.raises(SystemExit) as ended:
        main(["amg", "--input", str(folder), "--output", str(output), "--model-type", "vit_t", *flags, *more])
    return ended.value.code


def relative_files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def assert_same_cells(ours, theirs):
    """The same text but for scores, whose last digits depend on the order of sums; in the same form."""
    assert ours.keys() == theirs.keys()
    for name, cell in theirs.items():
        if name in ("predicted_iou", "stability_score"):
            assert float(ours[name]) == pytest.approx(float(cell), abs=MAX_SCORE_DIFFERENCE)
            assert ours[name] == str(float(ours[name]))
        elif name == "area":
            assert int(ours[name]) == pytest.approx(int(cell), abs=MAX_PIXELS_OFF)
        elif name.startswith(("bbox", "crop_box")):
            # Where a batch or a crop has no mask, the official generator gives these as floats, 160.0 for 160.
            assert json.loads(ours[name]) == json.loads(cell)
        else:
            assert ours[name] == cell, name


def test_folders_are_the_official_ones(photographs, official_sam, tmp_path, vit_t_checkpoint):
    settings = FLAGS["loose"]
    amg_of_the_official_package(official_sam, photographs, tmp_path / "theirs", settings, as_rle=False)
    assert run_amg(photographs, tmp_path / "ours", settings, "--checkpoint", str(vit_t_checkpoint)) == 0
    files = relative_files(tmp_path / "theirs")
    assert relative_files(tmp_path / "ours") == files
    assert len([name for name in files if name.endswith(".png")]) > 12, "settings that find no masks compare nothing"
    num_equal = 0
    for name in files:
        ours, theirs = tmp_path / "ours" / name, tmp_path / "theirs" / name
        if name.endswith(".png"):
            mask, official_mask = (cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in (ours, theirs))
            assert mask.shape == official_mask.shape
            assert set(np.unique(mask)) <= {0, 255}
            assert (mask != official_mask).sum() <= MAX_PIXELS_OFF, name
            num_equal += ours.read_bytes() == theirs.read_bytes()
            continue
        text, official_text = ours.read_text(), theirs.read_text()
        assert text.endswith("\n") == official_text.endswith("\n")
        assert text.splitlines()[0] == official_text.splitlines()[0]
        for row, official_row in zip(
            *(list(csv.DictReader(t.splitlines())) for t in (text, official_text)), strict=True
        ):
            assert_same_cells(row, official_row)
    assert num_equal > 12, "files of equal masks are equal byte by byte"


@pytest.mark.soak  # half a minute, for what the folders and the generator's own parity tests show nearly whole
def test_json_is_the_official_one(photographs, official_sam, tmp_path):
    settings = FLAGS["crops"]
    folder = tmp_path / "turned"  # one, since a layer of crops takes five times as long
    folder.mkdir()
    (folder / "turned cup.v1.jpg").write_bytes((photographs / "turned cup.v1.jpg").read_bytes())
    amg_of_the_official_package(official_sam, folder, tmp_path / "theirs", settings, as_rle=True)
    assert run_amg(folder, tmp_path / "ours", settings, "--convert-to-rle", "--device", "cpu") == 0
    files = relative_files(tmp_path / "theirs")
    assert relative_files(tmp_path / "ours") == files
    for name in files:
        text, official_text = ((tmp_path / side / name).read_text() for side in ("ours", "theirs"))
        records, official_records = json.loads(text), json.loads(official_text)
        assert len(records) > 2, "settings that find no masks compare nothing"
        assert text == json.dumps(records)
        for ours, theirs in zip(records, official_records, strict=True):
            assert list(ours) == list(theirs)
            assert list(ours["segmentation"]) == list(theirs["segmentation"])
            assert ours["segmentation"]["size"] == theirs["segmentation"]["size"]
            assert coco_mask.iou([ours["segmentation"]], [theirs["segmentation"]], [False]).item() == 1
            assert_same_cells(
                *({n: json.dumps(v) for n, v in r.items() if n != "segmentation"} for r in (ours, theirs))
            )
