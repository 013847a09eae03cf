import numpy as np
from PIL import Image

from benchmarks.synthetic_run import HEIGHT, WIDTH, write_run
from sam_pipeline import open_run
from sam_pipeline.storage.maintenance.verify import verify


def test_a_synthetic_run_is_sound_and_the_same_every_time(tmp_path):
    for name in ("first", "second"):
        write_run(str(tmp_path / name), 101, masks_per_image=3)
    found = verify(str(tmp_path / "first"), {})
    assert (found.ok, found.num_rows, found.num_masks) == (True, 101, 300)
    first, second = (open_run(tmp_path / name) for name in ("first", "second"))
    assert first.to_arrow() == second.to_arrow()
    counts = [len(mask["segmentation"]["counts"]) for row in first.rows() for mask in row["masks"]]
    assert 200 < np.mean(counts) < 800, "some hundred bytes, as masks of photographs take"


def test_its_images_can_be_given_a_picture(tmp_path):
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "picture.jpg")
    images = tmp_path / "images"
    write_run(str(tmp_path / "run"), 2, masks_per_image=1, images=str(images), picture=tmp_path / "picture.jpg")
    for row in open_run(tmp_path / "run").rows():
        with Image.open(row["uri"].removeprefix("file://")) as image:
            assert image.size == (row["width"], row["height"])
