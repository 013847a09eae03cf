"""An input of which nothing can be used is refused before its plan is frozen."""

import io
import json
import tarfile

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sam_pipeline.errors import InputError
from sam_pipeline.storage.inputs import first_images
from sam_pipeline.storage.inputs import reading as containers
from sam_pipeline.storage.inputs.first_images import check_first_images, spread_images
from sam_pipeline.storage.inputs.list_input import list_input
from sam_pipeline.storage.inputs.source_object import SourceObject, source_table
from tests.configs import plan_config
from tests.storage.image_files import noise, saved

PNG = saved(noise(4, 5), "PNG")


def check(path, **settings):
    config = plan_config(output="run", input=str(path), **settings)
    check_first_images(list_input(config), str(path), {})


def refused(path, **settings):
    with pytest.raises(InputError) as caught:
        check(path, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def list_of(folder, *names, name="list.csv", column="uri"):
    (folder / name).write_text("\n".join([column, *names]) + "\n")
    return folder / name


def test_one_image_that_can_be_read_is_enough(tmp_path):
    (tmp_path / "b.png").write_bytes(PNG)
    check(list_of(tmp_path, "a.png", "", "b.png", "c.png"))


def test_a_list_of_files_that_are_not_there_names_what_was_looked_for_and_the_settings(tmp_path):
    message = refused(list_of(tmp_path, *(f"{index:02}.png" for index in range(50))))
    assert f"cannot use {tmp_path}/list.csv: none of the images looked at (20 of 50) can be read" in message
    assert f"file://{tmp_path}/00.png: there is no such file" in message
    assert "--input-column" in message
    assert "--image-root" in message
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "49.png").write_bytes(PNG)
    check(tmp_path / "list.csv", image_root=f"{tmp_path}/photos")


def test_a_column_that_is_named_is_looked_at_too(tmp_path):
    path = list_of(tmp_path, "a dog", "a cat", column="text")
    assert "no column of" in refused(path)
    assert f"file://{tmp_path}/a cat: there is no such file" in refused(path, input_column="text")


def test_files_that_are_no_images_say_how_they_begin(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"<html>404 Not Found</html>")
    (tmp_path / "b.jpg").write_bytes(b"")
    assert "a.jpg: it is no image, but begins with b'<html>404 Not Fo'" in refused(tmp_path)
    (tmp_path / "a.jpg").unlink()
    assert "b.jpg: it is empty" in refused(tmp_path)


def test_names_that_may_not_be_followed_say_what_to_give(tmp_path):
    message = refused(list_of(tmp_path, "http://host/a.jpg", "http://host/b.jpg"))
    assert "list.csv#row-0: http:// images are fetched only with --allow-http" in message


def test_coco_files_beside_which_nothing_lies(tmp_path):
    (tmp_path / "instances.json").write_text(json.dumps({"images": [{"id": 1, "file_name": "a.jpg"}]}))
    message = refused(tmp_path / "instances.json")
    assert "--image-root" in message
    assert "--input-column" not in message


def test_bytes_in_parquet_that_are_no_images(tmp_path):
    pq.write_table(pa.table({"embedding": [bytes(64)] * 3, "label": [1, 2, 3]}), tmp_path / "0.parquet")
    message = refused(tmp_path / "0.parquet")
    assert "(3 of 3)" in message
    assert "--input-column says which column holds the images" in message
    images = pa.array([None, PNG, None], pa.binary())
    pq.write_table(pa.table({"image": images, "label": [1, 2, 3]}), tmp_path / "0.parquet")
    check(tmp_path / "0.parquet")


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize("data", [b"no image", PNG])
def test_members_of_archives(tmp_path, mode, data):
    with tarfile.open(tmp_path / "0.tar", mode) as archive:
        for number in range(30):
            info = tarfile.TarInfo(f"{number}.png")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    if data == PNG:
        check(tmp_path / "0.tar")
    else:
        assert "(20 of 30)" in refused(tmp_path / "0.tar")


def test_of_an_input_as_it_should_be_one_image_is_read(tmp_path, monkeypatch):
    for index in range(30):
        (tmp_path / f"{index}.png").write_bytes(PNG)
    asked = []
    fetch_images = first_images.fetch_images

    def fetch(images, *arguments, **options):
        asked.extend(images)
        return fetch_images(images, *arguments, **options)

    monkeypatch.setattr(first_images, "fetch_images", fetch)
    check(tmp_path)
    assert len(asked) == 1


def test_remote_images_are_looked_at_where_they_are(tmp_path):
    filesystem = fsspec.filesystem("memory")
    folder = f"/{tmp_path.name}"
    for index in range(3):
        filesystem.pipe_file(f"{folder}/{index}.jpg", b"no image")
    assert "(3 of 3)" in refused(f"memory:/{folder}")
    filesystem.pipe_file(f"{folder}/2.jpg", PNG)
    check(f"memory:/{folder}")


@pytest.mark.parametrize(
    ("num_images", "sampled"),
    [(1, [0]), (7, list(range(7))), (21, [*range(19), 20]), (39, list(range(0, 39, 2))), (96, list(range(0, 96, 5)))],
)
def test_at_most_twenty_images_from_the_first_to_the_last_are_looked_at(num_images, sampled):
    images = source_table(SourceObject(f"s3://b/{index}", 1, None) for index in range(num_images))
    assert [image.uri for image in spread_images(images)] == [f"s3://b/{index}" for index in sampled]


def test_a_compressed_archive_is_read_once_for_the_first_image_and_once_for_the_others(tmp_path, monkeypatch):
    with tarfile.open(tmp_path / "0.tar.gz", "w:gz") as archive:
        for number in reversed(range(10)):
            archive.addfile(tarfile.TarInfo(f"{number}.png"))
    passes = []
    read = containers.read_tar_members
    monkeypatch.setattr(
        containers,
        "read_tar_members",
        lambda uri, numbers, options: passes.append(numbers) or read(uri, numbers, options),
    )
    assert "0.png: it is empty" in refused(tmp_path / "0.tar.gz")
    assert passes == [[9], list(range(9))]
