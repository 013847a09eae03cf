"""Shards of WebDataset: tar files of samples, each with an image and its JSON."""

import io
import json
import os
import tarfile

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from tests.exports.masks import all_shapes, prompted, shapes
from tests.exports.pictures import in_folder, in_parquet, in_tar, in_zip, picture, pixels, run_of, turned
from tests.storage.runs import failed_row


def samples(path):
    """By key, what each suffix holds: the key ends at the first dot of a name, as in WebDataset."""
    found = {}
    with tarfile.open(path) as tar:
        for member in tar:
            folder, _, name = member.name.rpartition("/")
            key, _, suffix = name.partition(".")
            found.setdefault(f"{folder}{key}", {})[suffix] = tar.extractfile(member).read()
    return found


@pytest.mark.parametrize("store", [in_folder, in_tar, in_zip, in_parquet])
def test_every_image_lies_beside_its_masks(exported, tmp_path, store):
    files = {"a.b/x.y.jpg": picture(0), "a.b/z.jpg": turned(1), "c.png": picture(2, "PNG")}
    run = run_of(tmp_path, files, store, [all_shapes(), all_shapes()[:2], []])
    folder, summary = exported(run, "webdataset")
    found = samples(folder / "shard-000000.tar")
    assert list(found) == ["000000001", "000000002", "000000003"]
    assert [set(each) for each in found.values()] == [{"jpg", "json"}, {"jpg", "json"}, {"png", "json"}]
    number = 0
    for place, (sample, num_masks) in enumerate(zip(found.values(), (len(shapes()), 2, 0), strict=True)):
        content = json.loads(sample["json"])
        assert content["image_id"] == place + 1
        for each, mask in zip(content["annotations"], list(shapes().values())[:num_masks], strict=True):
            number += 1
            assert np.array_equal(coco_mask.decode(each["segmentation"]), mask)
            assert (each["id"], each["area"], each["category"]) == (number, mask.sum(), "object")
            assert each["bbox"] == coco_mask.toBbox(each["segmentation"]).tolist()
        with Image.open(io.BytesIO(sample.get("jpg") or sample["png"])) as image:
            assert image.size == (content["width"], content["height"])
            assert np.abs(np.asarray(image).astype(int) - pixels(place)).max() <= 8
    if store is not in_parquet:
        assert [json.loads(each["json"])["file_name"] for each in found.values()] == list(files)
    assert (summary.num_images, summary.num_masks) == (3, number)


def test_images_that_are_gone_are_left_out_and_counted(exported, tmp_path):
    run = run_of(tmp_path, {f"{number}.jpg": picture(number) for number in range(3)})
    os.unlink(tmp_path / "in" / "1.jpg")
    folder, summary = exported(run, "webdataset")
    assert list(samples(folder / "shard-000000.tar")) == ["000000001", "000000003"]
    assert (summary.num_images, summary.num_masks) == (2, 2 * len(shapes()))
    assert summary.images_left_out == {"gone or changed": 1}
    assert summary.masks_left_out == {"of images that are gone or changed": len(shapes())}


def test_shards_have_so_many_images_and_splits_folders_of_their_own(exported, tmp_path):
    run = run_of(tmp_path, {f"{number}.jpg": picture(number) for number in range(7)}, masks=[all_shapes()[:1]] * 7)
    folder, _ = exported(run, "webdataset", shard_images=3)
    assert [len(samples(path)) for path in sorted(folder.glob("*.tar"))] == [3, 3, 1]
    folder, _ = exported(run, "webdataset", "split", split=0.7, shard_images=3)
    assert [len(samples(path)) for path in sorted(folder.glob("train/*.tar"))] == [3, 2]
    assert [len(samples(path)) for path in sorted(folder.glob("val/*.tar"))] == [2]


def test_categories_and_boxes_of_prompts_are_carried(exported, tmp_path):
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    run = run_of(tmp_path, {"0.jpg": picture(0)}, masks=[[prompted(shapes()["disc"], 1, float("nan"))]])
    folder, _ = exported(run, "webdataset", categories=str(tmp_path / "names.txt"), bbox="prompt")
    (sample,) = samples(folder / "shard-000000.tar").values()
    (found,) = json.loads(sample["json"], parse_constant=pytest.fail)["annotations"]
    assert (found["category_id"], found["category"], found["score"]) == (2, "dog", None)
    assert found["bbox"] == [24.5, 14.5, 52, 52]


def test_a_run_with_failures_alone_has_an_empty_shard(exported):
    folder, summary = exported([failed_row(0)], "webdataset")
    assert samples(folder / "shard-000000.tar") == {}
    assert summary.num_images == 0
