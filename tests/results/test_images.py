"""The images of a run, read again from each place that they can be planned from."""

import io
import tarfile
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from sam_pipeline.config import InputConfig, PlanConfig
from sam_pipeline.pipeline.plan import ensure_plan
from sam_pipeline.results.images import fetch_images, read_images
from sam_pipeline.results.results import Results
from sam_pipeline.storage.inputs.decoding.image_reading import DecodeError
from sam_pipeline.storage.inputs.fetching import ChangedError
from tests.storage.runs import FINGERPRINT, take_over

NUM_IMAGES = 5


def picture(number, **options):
    data = io.BytesIO()
    pixels = np.full((4 + number, 6, 3), 40 * number, np.uint8)
    Image.fromarray(pixels).save(data, "PNG", **options)
    return data.getvalue()


def folder(place):
    place.mkdir()
    for number in range(NUM_IMAGES):
        (place / f"{number}.png").write_bytes(picture(number))
    return place


def tar(place, suffix=".tar", mode="w"):
    with tarfile.open(path := place.with_name("images" + suffix), mode) as archive:
        for number in range(NUM_IMAGES):
            member = tarfile.TarInfo(f"{number}.png")
            member.size = len(picture(number))
            archive.addfile(member, io.BytesIO(picture(number)))
    return path


def compressed_tar(place):
    return tar(place, ".tar.gz", "w:gz")


def zipped(place):
    with zipfile.ZipFile(path := place.with_suffix(".zip"), "w") as archive:
        for number in range(NUM_IMAGES):
            archive.writestr(f"{number}.png", picture(number))
    return path


def parquet(place):
    table = pa.table({"image": [picture(number) for number in range(NUM_IMAGES)]})
    pq.write_table(table, path := place.with_suffix(".parquet"), row_group_size=2)
    return path


def planned(output, place):
    ensure_plan(PlanConfig(images=InputConfig(input=str(place)), output=output))
    take_over(output, FINGERPRINT | {"max_pixels": 1000})
    return Results.open(output, {})


@pytest.mark.parametrize("make", [folder, tar, compressed_tar, zipped, parquet])
def test_images_are_read_from_every_kind_of_place(tmp_path, make):
    results = planned(str(tmp_path / "run"), make(tmp_path / "images"))
    assert results.num_images == NUM_IMAGES
    ids = [4, 0, 3]
    assert dict(fetch_images(results, ids)) == {number: picture(number) for number in ids}
    for number, pixels in read_images(results, ids):
        assert pixels.shape == (4 + number, 6, 3)
        assert (pixels == 40 * number).all()


def test_pictures_are_upright(tmp_path):
    place = folder(tmp_path / "images")
    exif = Image.Exif()
    exif[0x0112] = 6
    (place / "0.png").write_bytes(picture(0, exif=exif))
    ((_, pixels),) = read_images(planned(str(tmp_path / "run"), place), [0])
    assert pixels.shape == (6, 4, 3)


def test_what_is_wrong_with_an_image_is_its_answer(tmp_path):
    place = folder(tmp_path / "images")
    (place / "3.png").write_bytes(b"no image, but as many bytes"[: len(picture(3))])
    results = planned(str(tmp_path / "run"), place)
    (place / "1.png").unlink()
    (place / "2.png").write_bytes(picture(2) + b"more")
    answers = dict(read_images(results, [0, 1, 2, 3]))
    assert answers[0].shape == (4, 6, 3)
    assert isinstance(answers[1], FileNotFoundError)
    assert isinstance(answers[2], ChangedError)
    assert isinstance(answers[3], DecodeError)
