import os

import pytest

from sam_pipeline.amg.targets import list_targets
from sam_pipeline.errors import InputError
from tests.storage.image_files import noise, saved

PNG = saved(noise(), "PNG")


def fill(folder, *names, data=PNG):
    for name in names:
        (folder / name).write_bytes(data)
    return str(folder)


def names_of(listing):
    return {target.path.name: target.name for target in listing.targets}


def test_results_have_the_name_of_the_image_without_its_suffix(tmp_path):
    folder = fill(tmp_path, "b.jpg", "a.v2.png", ".hidden.png", "none")
    assert names_of(list_targets(folder)) == {
        "b.jpg": "b",
        "a.v2.png": "a.v2",
        ".hidden.png": ".hidden",
        "none": "none",
    }
    assert names_of(list_targets(f"{folder}/b.jpg")) == {"b.jpg": "b"}


def test_images_come_in_the_order_of_their_names_and_folders_do_not(tmp_path):
    (tmp_path / "c.png").mkdir()
    (tmp_path / "link.png").symlink_to(tmp_path / "c.png")
    assert list(names_of(list_targets(fill(tmp_path, "z.png", "B.png", "a.png")))) == ["B.png", "a.png", "z.png"]


def test_images_of_one_name_keep_their_suffixes(tmp_path):
    listing = list_targets(fill(tmp_path, "a.jpg", "a.png", "b.png"))
    assert names_of(listing) == {"a.jpg": "a.jpg", "a.png": "a.png", "b.png": "b"}
    assert [target.name for target in listing.renamed] == ["a.jpg", "a.png"]


def test_names_differ_whatever_they_are(tmp_path):
    listing = list_targets(fill(tmp_path, "a.jpg", "a.png", "a.jpg.gif", "a.jpg.gif.png", "a"))
    assert len(set(names_of(listing).values())) == 5


def test_files_that_are_no_images_take_no_name(tmp_path):
    fill(tmp_path, "a.txt", "a.xml", "a.json", data=b"label")
    os.mkfifo(tmp_path / "a.pipe")
    listing = list_targets(fill(tmp_path, "a.jpg"))
    assert names_of(listing) == {"a.jpg": "a"}
    assert [path.name for path in listing.others] == ["a.json", "a.pipe", "a.txt", "a.xml"]


def test_what_claims_to_be_an_image_or_is_named_itself_is_one(tmp_path):
    folder = fill(tmp_path, "broken.JPG", "notes.txt", data=b"text")
    assert names_of(list_targets(folder)) == {"broken.JPG": "broken"}
    assert names_of(list_targets(f"{folder}/notes.txt")) == {"notes.txt": "notes"}


def test_hostile_names(tmp_path):
    names = ["\x1b[31m.png", "a\nb.png", "ü.png", os.fsdecode(b"\xff\xfe.png"), "...png", "-rf.png"]
    listing = list_targets(fill(tmp_path, *names))
    assert sorted(names_of(listing)) == sorted(names)
    assert names_of(listing)["...png"] == "...png"
    assert all("/" not in name and name not in ("", ".", "..") for name in names_of(listing).values())


def test_an_input_that_is_not_there_or_empty_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"none cannot be listed: .*No such file"):
        list_targets(str(tmp_path / "none"))
    with pytest.raises(InputError, match="a folder without files"):
        list_targets(str(tmp_path))
