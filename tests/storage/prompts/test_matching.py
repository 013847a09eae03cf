import logging
import re

import pyarrow as pa
import pytest

from sam_pipeline.storage.inputs.source_object import Location, SourceObject, source_table
from sam_pipeline.storage.prompts.matching import match_images, why_none_match
from sam_pipeline.storage.tables.schema import IMAGES_SCHEMA


def planned(*images):
    rows = source_table(
        [image if isinstance(image, SourceObject) else SourceObject(image, 1, None) for image in images]
    )
    return rows.add_column(0, IMAGES_SCHEMA.field("image_id"), pa.array(range(len(images)), pa.int64()))


def match(keys, images, are_ids=False):
    """are_ids: whether the keys are ids of images, of all or for each."""
    return match_images(keyed(keys, are_ids), images).tolist()


def keyed(keys, are_ids=False):
    are_ids = are_ids if isinstance(are_ids, list) else [are_ids] * len(keys)
    # As files are read: in several parts.
    schema = pa.schema([("key", pa.string()), ("is_image_id", pa.bool_())])
    parts = [pa.table([[key], [is_id]], schema=schema) for key, is_id in zip(keys, are_ids, strict=True)]
    return pa.concat_tables([schema.empty_table(), *parts])


FOLDER = planned("s3://b/train/0001.jpg", "s3://b/train/0002.v2.jpg", "s3://b/val/0001.jpg", "s3://b/val/x 3.png")


@pytest.mark.parametrize(
    ("key", "image_id"),
    [
        ("s3://b/train/0001.jpg", 0),
        ("train/0001.jpg", 0),
        ("b/val/0001.jpg", 2),
        ("./val/0001", 2),
        ("../../val/0001.jpg", 2),
        ("0002.v2.jpg", 1),
        ("0002.v2", 1),
        ("x 3", 3),
        ("0002", -1),
        ("1.jpg", -1),
        ("rain/0001.jpg", -1),
        ("other/0001.jpg", -1),
        ("", -1),
        (None, -1),
        ("a/" * 3000, -1),
    ],
)
def test_a_key_names_an_image_by_its_uri_or_the_end_of_it(key, image_id):
    assert match([key], FOLDER) == [image_id]


NFC, NFD = "caf\u00e9", "cafe\u0301"


@pytest.mark.parametrize(
    ("key", "name"),
    [
        (f"{NFC}.jpg", f"{NFD}.jpg"),
        (NFD, f"{NFC}.jpg"),
        (f"x/{NFD}.jpg", f"x/{NFC}.jpg"),
        ("a%20b.jpg", "a b.jpg"),
        ("a b", "a%20b.jpg"),
        ("train\\1.jpg", "train/1.jpg"),
        (".\\train\\1", "train/1.jpg"),
        ("train/1.jpg", "train\\1.jpg"),
        (f"tr%C3%A4in\\{NFC}%20.jpg", f"tr\u00e4in/{NFD} .jpg"),
        ("100%25", "100%.png"),
    ],
)
def test_a_key_in_another_form_names_the_one_image_that_is_meant(key, name):
    images = planned("s3://b/other.jpg", f"s3://b/{name}")
    assert match([key], images) == [1]
    in_tar = SourceObject(f"s3://b/0.tar#{name}", 1, None, Location("s3://b/0.tar", "range", 0, 1))
    assert match([key], planned("s3://b/other.jpg", in_tar)) == [1]


def test_a_key_as_it_is_written_comes_before_other_forms_of_it():
    images = planned(f"s3://b/{NFC}.jpg", f"s3://b/{NFD}.jpg", "s3://b/a%20b.jpg", "s3://b/a b.jpg")
    keys = [f"{NFC}.jpg", f"{NFD}.jpg", "a%20b.jpg", "a b.jpg"]
    assert match(keys, images) == [0, 1, 2, 3]


def test_a_key_whose_form_several_images_have_is_nobodys(caplog):
    assert match([f"{NFC}%20.jpg"], planned(f"s3://b/{NFC} .jpg", f"s3://b/{NFD} .jpg")) == [-1]
    assert "1 rows name several images at once" in caplog.text


def test_a_name_that_several_images_have_is_nobodys_and_is_said(caplog):
    with caplog.at_level(logging.WARNING):
        assert match(["0001.jpg", "train/0001.jpg", "0001.jpg", None, "else"], FOLDER) == [-1, 0, -1, -1, -1]
    assert "2 rows name several images at once, such as '0001.jpg', and are left out" in caplog.text
    assert "1 rows name images that are not planned, such as 'else'" in caplog.text
    assert "1 rows name no image" in caplog.text


def test_the_ids_of_a_coco_file_come_before_names():
    extras = ['{"coco_image_id": 7}', '{"coco_image_id": "b\\"", "license": 1}', '{"license": 7}', None]
    images = planned(
        *(SourceObject(f"s3://b/{name}", 1, None, extra=extra) for name, extra in zip("7abc", extras, strict=True))
    )
    assert match(["7", 'b"', "a", "c", "8"], images, are_ids=True) == [0, 1, 1, 3, -1]


def test_a_name_is_not_looked_for_among_the_ids_of_a_coco_file_nor_an_id_among_names():
    # As annotation tools write it: ids from 0, names from 1.
    images = planned(
        *(SourceObject(f"s3://b/{n + 1}.jpg", 1, None, extra=f'{{"coco_image_id": {n}}}') for n in range(3))
    )
    names = ["1", "2.jpg", "3", "0"]
    assert match(names, images) == [0, 1, 2, -1]
    assert match(["1", "2", "0", "3"], images, are_ids=True) == [1, 2, 0, -1]
    assert match(["1", "1", None, None], images, are_ids=[True, False, True, False]) == [1, 0, -1, -1]
    assert match(["1", "3.jpg"], planned("s3://b/1.jpg", "s3://b/3.jpg"), are_ids=True) == [0, 1]


def test_a_number_names_the_file_that_has_zeros_before_it():
    images = planned("file:///d/000000000139.jpg", "file:///d/000000000285.jpg", "file:///d/x139.jpg")
    assert match(["139", "285", "x139", "39"], images) == [0, 1, 2, -1]
    assert match(["139", "285"], images, are_ids=True) == [0, 1]


def test_a_name_that_begins_with_zeros_is_no_number():
    assert match(["0001", "1", "0", "-1"], planned("s3://b/1.jpg", "s3://b/000.jpg")) == [-1, 0, 1, -1]


def test_a_local_path_is_a_uri():
    assert match(["/d/a.jpg", "file:///d/a.jpg", "/d/b.jpg"], planned("file:///d/a.jpg")) == [0, 0, -1]


def test_members_of_archives_are_named_as_if_these_were_folders():
    images = planned(
        *(
            SourceObject(f"s3://b/{shard}.tar#{member}", 1, None, Location(f"s3://b/{shard}.tar", "range", 0, 1))
            for shard, member in (("0", "n1/a.jpg"), ("1", "n1/a.jpg"), ("1", "b.jpg"))
        )
    )
    assert match(["b.jpg", "b", "n1/a.jpg", "0.tar#n1/a.jpg", "1.tar/n1/a"], images) == [2, 2, -1, 0, 1]


def test_a_hash_in_the_name_of_an_object_divides_nothing():
    assert match(["a#b.jpg", "b.jpg"], planned("s3://b/a#b.jpg")) == [0, -1]


def test_nothing_matches_nothing():
    assert match([], FOLDER) == []
    assert match(["a"], FOLDER.slice(0, 0)) == [-1]


WITH_IDS = planned(SourceObject("s3://b/7.jpg", 1, None, extra='{"coco_image_id": 42}'))


@pytest.mark.parametrize(
    ("keys", "are_ids", "images", "why"),
    [
        ([None, None], False, FOLDER, "none of them names an image"),
        ([None, "x.jpg"], False, FOLDER, "images such as 'x.jpg', and the images are such as 's3://b/train/0001.jpg'"),
        (["0001.jpg"], False, FOLDER, "fits several images, such as '0001.jpg': give more of their paths"),
        (["397133"], True, FOLDER, "ids such as '397133', and the images have names such as .* with --prompt-images"),
        (["397133"], False, FOLDER, "they name images such as '397133'"),
        (["7"], True, WITH_IDS, "ids such as '7', and the images of the annotation file such as 42"),
    ],
)
def test_why_none_matches(keys, are_ids, images, why):
    rows = keyed(keys, are_ids)
    assert (match_images(rows, images) == -1).all()
    assert re.search(why, why_none_match(rows, images))


NUMBERED = planned("s3://b/000000.png", "s3://b/000001.png", "s3://b/2.png")


def test_ids_that_are_taken_for_numbers_in_names_are_told_once_with_an_example(caplog):
    # Ids may begin with 1, and names with 0.
    assert match(["1", "2", "1", "7"], NUMBERED, are_ids=True) == [1, 2, 1, -1]
    told = [message for message in caplog.messages if "taken for" in message]
    assert told == [
        "2 image_ids were taken for the numbers in file names, such as 1 for 000001.png; if that is wrong, give the "
        "COCO file with the names of the ids with --prompt-images"
    ]


@pytest.mark.parametrize(("keys", "are_ids"), [(["1", "000001"], False), (["000001.png", "000001"], True)])
def test_names_of_files_are_taken_for_nothing_else(keys, are_ids, caplog):
    assert match(keys, NUMBERED, are_ids=are_ids) == [1, 1]
    assert not caplog.messages


def test_ids_of_the_coco_file_that_was_planned_from_are_no_numbers_in_names(caplog):
    images = planned(SourceObject("s3://b/1.png", 1, None, extra='{"coco_image_id": 2}'))
    assert match(["2"], images, are_ids=True) == [0]
    assert not caplog.messages
