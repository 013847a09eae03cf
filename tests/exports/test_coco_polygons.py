"""COCO's polygons, drawn again by pycocotools."""

import json

import numpy as np
import pytest
from pycocotools.coco import COCO

from tests.exports.masks import row, shapes, stored


def read(folder):
    found = COCO(folder / "annotations.json")
    return found, [found.anns[number] for number in sorted(found.anns)]


@pytest.mark.parametrize("parts", ["bridge", "split"])
@pytest.mark.parametrize("shard_images", [None, 2])
def test_masks_are_drawn_again_exactly(exported, every_shape, parts, shard_images):
    folder, summary = exported(every_shape, "coco", segmentation="polygon", parts=parts, shard_images=shard_images)
    expected = [*shapes().values(), *list(shapes().values())[:2]]
    found = []
    for path in sorted(folder.glob("*.json")):
        truth = COCO(path)
        for number in sorted(truth.anns):
            annotation = truth.anns[number]
            assert isinstance(annotation["segmentation"], list)
            for polygon in annotation["segmentation"]:
                assert len(polygon) >= 6
                assert all(isinstance(value, int) for value in polygon)
                x, y, w, h = annotation["bbox"]
                assert x <= min(polygon[::2]) <= max(polygon[::2]) <= x + w
                assert y <= min(polygon[1::2]) <= max(polygon[1::2]) <= y + h
            found.append(truth.annToMask(annotation))
    assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))
    assert (summary.loss.num_masks, summary.loss.mean(), summary.loss.percentile(5)) == (len(expected), 1, 1)


def test_parts_are_one_polygon_several_or_the_largest_alone(exported):
    rows = [row(0, [stored(shapes()["two parts"])])]
    for parts, num_polygons in (("bridge", 1), ("split", 2), ("largest", 1)):
        folder, summary = exported(rows, "coco", parts, segmentation="polygon", parts=parts)
        truth, (annotation,) = read(folder)
        assert len(annotation["segmentation"]) == num_polygons
        kept = (truth.annToMask(annotation) & shapes()["two parts"]).sum() / shapes()["two parts"].sum()
        assert summary.loss.mean() == pytest.approx(kept)
        assert (kept < 0.7) == (parts == "largest")


def test_simplified_polygons_are_shorter_and_their_loss_is_said(exported):
    rows = [row(0, [stored(shapes()["with a hole"])])]
    lengths = []
    for simplify in (0, 1, 3):
        folder, summary = exported(rows, "coco", f"by-{simplify}", segmentation="polygon", simplify=simplify)
        truth, (annotation,) = read(folder)
        drawn = truth.annToMask(annotation).astype(bool)
        iou = (drawn & shapes()["with a hole"]).sum() / (drawn | shapes()["with a hole"]).sum()
        assert summary.loss.mean() == pytest.approx(iou)
        lengths.append(len(annotation["segmentation"][0]))
    assert lengths[0] > 2 * lengths[1] > 2 * lengths[2]


def test_a_mask_without_a_pixel_stays_rle(exported):
    empty = stored(shapes()["disc"]) | {"segmentation": {"size": [97, 131], "counts": "S]<"}, "area": 0}
    folder, _ = exported([row(0, [empty])], "coco", segmentation="polygon")
    (annotation,) = json.loads((folder / "annotations.json").read_text())["annotations"]
    assert annotation["segmentation"] == {"size": [97, 131], "counts": "S]<"}
    assert not COCO(folder / "annotations.json").annToMask(annotation).any()
