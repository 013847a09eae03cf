"""Parquet files for Hugging Face's datasets, read with Arrow; test_other_readers.py loads them with datasets itself."""

import io
import json
import os

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from sam_pipeline.exports.formats import hf
from sam_pipeline.results.categories import Categories
from tests.exports.masks import all_shapes, prompted, shapes, stored
from tests.exports.pictures import in_parquet, in_tar, picture, pixels, run_of, turned
from tests.storage.runs import failed_row


@pytest.mark.parametrize("store", [in_tar, in_parquet])
def test_a_row_has_the_image_and_lists_of_what_its_masks_have(exported, tmp_path, store):
    files = {"0.jpg": picture(0), "1.jpg": turned(1), "2.jpg": picture(2)}
    folder, summary = exported(run_of(tmp_path, files, store, [all_shapes(), [], all_shapes()[:3]]), "hf")
    rows = pq.read_table(folder / "data" / "train-000000.parquet").to_pylist()
    assert [row["image_id"] for row in rows] == [1, 2, 3]
    number = 0
    for place, (row, num_masks) in enumerate(zip(rows, (len(shapes()), 0, 3), strict=True)):
        with Image.open(io.BytesIO(row["image"]["bytes"])) as image:
            assert image.size == (row["width"], row["height"])
            assert np.abs(np.asarray(image).astype(int) - pixels(place)).max() <= 8
        objects = row["objects"]
        assert {len(values) for values in objects.values()} == {num_masks}
        for i, mask in enumerate(list(shapes().values())[:num_masks]):
            number += 1
            assert np.array_equal(coco_mask.decode(objects["segmentation"][i]), mask)
            assert (objects["id"][i], objects["area"][i]) == (number, mask.sum())
            assert (objects["category_id"][i], objects["category"][i]) == (1, 0)
            assert objects["bbox"][i] == coco_mask.toBbox(objects["segmentation"][i]).tolist()
    assert (summary.num_images, summary.num_masks) == (3, number)


def test_the_files_say_what_datasets_is_to_make_of_them(exported, tmp_path):
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    masks = [prompted(shapes()["disc"], 1, 0.25), stored(shapes()["disc"])]
    run = run_of(tmp_path, {"0.jpg": picture(0)}, masks=[masks])
    folder, _ = exported(run, "hf", categories=str(tmp_path / "names.txt"), split=0.5)
    file = pq.ParquetFile(next((folder / "data").glob("*-000000.parquet")))
    features = json.loads(file.schema_arrow.metadata[b"huggingface"])["info"]["features"]
    assert features["image"] == {"_type": "Image"}
    assert features["objects"]["category"]["feature"] == {"names": ["cat", "dog", "object"], "_type": "ClassLabel"}
    assert set(features) == set(file.schema_arrow.names)
    rows = [row for path in (folder / "data").glob("*.parquet") for row in pq.read_table(path).to_pylist()]
    assert rows[0]["objects"]["category"] == [1, 2]
    assert rows[0]["objects"]["category_id"] == [2, 3]
    assert rows[0]["objects"]["score"] == [0.25, None]
    assert {path.name for path in (folder / "data").iterdir()} == {"train-000000.parquet", "val-000000.parquet"}


def test_categories_of_one_name_are_told_apart(exported, tmp_path):
    categories = [{"id": 1, "name": "cat"}, {"id": 5, "name": "cat"}, {"id": 6, "name": "dog"}]
    (tmp_path / "coco.json").write_text(json.dumps({"categories": categories}))
    run = run_of(tmp_path, {"0.jpg": picture(0)}, masks=[[prompted(shapes()["disc"], 5)]])
    folder, _ = exported(run, "hf", categories=str(tmp_path / "coco.json"))
    schema = pq.read_schema(folder / "data" / "train-000000.parquet")
    features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    assert features["objects"]["category"]["feature"]["names"] == ["cat (1)", "cat (5)", "dog"]


def test_categories_are_listed_once_a_file(exported, tmp_path, monkeypatch):
    """There may be thousands of them, and of row groups."""
    listed, exported_categories = [], Categories.exported
    monkeypatch.setattr(
        Categories, "exported", lambda self, **options: listed.append(1) or exported_categories(self, **options)
    )
    monkeypatch.setattr(hf, "_MOST_IMAGES", 1)
    folder, _ = exported(run_of(tmp_path, {f"{number}.jpg": picture(number) for number in range(5)}), "hf")
    assert pq.read_metadata(folder / "data" / "train-000000.parquet").num_row_groups == 5
    assert len(listed) == 2


def test_images_that_are_gone_are_null_and_counted(exported, tmp_path):
    run = run_of(tmp_path, {f"{number}.jpg": picture(number) for number in range(3)})
    os.unlink(tmp_path / "in" / "1.jpg")
    folder, summary = exported(run, "hf")
    rows = pq.read_table(folder / "data" / "train-000000.parquet").to_pylist()
    assert [row["image"] is None for row in rows] == [False, True, False]
    assert len(rows[1]["objects"]["id"]) == len(shapes())
    assert summary.warnings["images are gone or changed, and have no copy"] == 1


def test_shards_have_so_many_images(exported, tmp_path):
    run = run_of(tmp_path, {f"{number}.jpg": picture(number) for number in range(5)}, masks=[all_shapes()[:1]] * 5)
    folder, _ = exported(run, "hf", shard_images=2)
    paths = sorted((folder / "data").iterdir())
    assert [path.name for path in paths] == [f"train-{number:06}.parquet" for number in range(3)]
    assert [pq.read_metadata(path).num_rows for path in paths] == [2, 2, 1]


def test_a_run_with_failures_alone_is_an_empty_table(exported):
    folder, _ = exported([failed_row(0)], "hf")
    assert pq.read_table(folder / "data" / "train-000000.parquet").num_rows == 0
